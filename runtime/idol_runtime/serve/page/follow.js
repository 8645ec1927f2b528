// Geometry of a picture: what was clicked, which part is shown, and how a followed track is drawn.
// Boxes are [left, top, right, bottom] in pixels of the frame; a window is {x, y, width, height} in the same pixels.

// Return the smallest instance whose box contains the point.
export function hit(instances, x, y) {
  const area = ({ box_xyxy: [left, top, right, bottom] }) => (right - left) * (bottom - top);
  return instances
    .filter(({ box_xyxy: [left, top, right, bottom] }) => x >= left && x <= right && y >= top && y <= bottom)
    .sort((a, b) => area(a) - area(b))[0];
}

// Return the window of the frame [height, width] that shows a box with room around it, in the shape of the frame.
export function zoomed([height, width], [left, top, right, bottom]) {
  const scale = Math.min(1, Math.max(0.25, 2.5 * Math.max((right - left) / width, (bottom - top) / height)));
  const size = { width: scale * width, height: scale * height };
  const within = (start, length, most) => Math.min(Math.max(start, 0), most - length);
  return {
    x: within((left + right - size.width) / 2, size.width, width),
    y: within((top + bottom - size.height) / 2, size.height, height),
    ...size,
  };
}

// Return a window part of the way from one to the other.
export function between(from, to, part) {
  const mix = (key) => from[key] + part * (to[key] - from[key]);
  return { x: mix("x"), y: mix("y"), width: mix("width"), height: mix("height") };
}

// Return the point of the frame at a part (0 to 1) of the picture's width and height.
export const pointAt = (window, across, down) => [window.x + across * window.width, window.y + down * window.height];

// Draw the window of a picture and the followed instance in front of the dimmed rest; absent: it is not in the frame.
export function draw(canvas, bitmap, [, frameWidth], window, instance, absent) {
  const context = canvas.getContext("2d");
  if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
  }
  const pixels = bitmap.width / frameWidth; // of the picture per pixel of the frame
  const { x, y, width, height } = window;
  context.drawImage(
    bitmap, x * pixels, y * pixels, width * pixels, height * pixels, 0, 0, canvas.width, canvas.height,
  );
  if (!instance && !absent) return;
  const shade = new Path2D();
  shade.rect(0, 0, canvas.width, canvas.height);
  if (instance) {
    const scale = canvas.width / width;
    const [left, top, right, bottom] = instance.box_xyxy;
    const box = [(left - x) * scale, (top - y) * scale, (right - left) * scale, (bottom - top) * scale];
    shade.rect(...box);
    context.fillStyle = "rgb(0 0 0 / 55%)";
    context.fill(shade, "evenodd");
    const line = Math.max(2, (2.5 * canvas.width) / (canvas.clientWidth || canvas.width));
    for (const [colour, thickness] of [["#000", 2 * line], [instance.colour, line]]) {
      context.strokeStyle = colour;
      context.lineWidth = thickness;
      context.strokeRect(...box);
    }
  } else {
    context.fillStyle = "rgb(0 0 0 / 35%)";
    context.fill(shade);
  }
}

// The dialogs: add a stream, remove a stream.

import { request, streamPath } from "./feed.js";
import { $, setText } from "./text.js";

// Send the form of a dialog with `send(fields)`; close it, or show the error and keep what was typed.
function submit(dialog, send) {
  const form = $("form", dialog);
  const error = $(".error", dialog);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = $(".main", form);
    button.disabled = true;
    setText(error, "");
    try {
      await send(Object.fromEntries(new FormData(form)));
      form.reset();
      dialog.close();
    } catch (problem) {
      setText(error, problem.name === "TimeoutError" ? "The server does not answer; try again" : problem.message);
    } finally {
      button.disabled = false;
    }
  });
  $(".cancel", dialog).addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => setText(error, ""));
}

export class Forms {
  #removed = "";

  constructor() {
    this.remove = $("#remove");
    submit($("#new"), ({ name, source, score }) =>
      request("/api/streams", "POST", { name, source, ...(score === "" ? {} : { score: Number(score) }) }),
    );
    submit(this.remove, () => request(streamPath(this.#removed), "DELETE"));
    $("#add").addEventListener("click", () => $("#new").showModal());
  }

  showRemove(name) {
    this.#removed = name;
    setText($("h2", this.remove), `Remove stream ${name}?`);
    this.remove.showModal();
  }
}

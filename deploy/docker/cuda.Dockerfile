# Not built, not run: no GPU and no image of NVIDIA was at hand.
# x86-64 with an NVIDIA GPU and a driver of CUDA 13: TensorRT 10.16. In the repository's folder:
#   docker build -f deploy/docker/cuda.Dockerfile -t idol-deploy:cuda .
FROM nvidia/cuda:13.2.0-devel-ubuntu24.04 AS build
ARG TENSORRT=10.16.1.11
# GPUs of Turing to Blackwell; one of them makes the image smaller.
ARG CUDA_ARCH=75;80;86;89;90;100;120
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        cmake g++ make python3-venv "libnvinfer-headers-dev=${TENSORRT}-1+cuda13.2" \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# OpenCV without windows, which would need libGL and LLVM: 300 MB.
RUN python3 -m venv /opt/idol-deploy \
    && export PATH="/opt/idol-deploy/bin:$PATH" PIP_NO_CACHE_DIR=1 \
    && pip install -c constraints.txt '.[cpu,tensorrt,video,serve,mqtt]' "tensorrt==${TENSORRT}" \
    && pip uninstall -y opencv-python \
    && pip install "$(sed -n 's/^opencv-python/&-headless/p' constraints.txt)" \
    && idol-deploy plugins build --cuda "${CUDA_ARCH}" --into /opt/idol-deploy/plugins

FROM nvidia/cuda:13.2.0-base-ubuntu24.04
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --groups video --home-dir /data --no-create-home idol-deploy \
    && install -d -o idol-deploy -g idol-deploy /data
COPY --from=build /opt/idol-deploy /opt/idol-deploy
ENV PATH=/opt/idol-deploy/bin:$PATH IDOL_PLUGINS=/opt/idol-deploy/plugins PYTHONFAULTHANDLER=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8080
HEALTHCHECK --start-period=10m \
    CMD ["python3", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/healthz', timeout=5)"]
ENTRYPOINT ["idol-deploy"]
CMD ["serve", "model.idol", "--streams", "streams.json", "--http", "0.0.0.0:8080", \
     "--token-file", "/run/secrets/idol-deploy-token", "--data", "results", "--state", "results/{source}.state", \
     "--rotate", "1h", "--retain", "7d,5GB"]

# Built and run: with buildah, on Debian 12.15 from debootstrap; the image debian:12.15-slim itself was not at hand.
# x86-64 without a GPU: OpenVINO with our operator. In the repository's folder:
#   docker build -f deploy/docker/cpu.Dockerfile -t idol-deploy:cpu .
FROM debian:12.15-slim AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake g++ make python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# OpenCV without windows, which would need libGL and LLVM: 300 MB.
RUN python3 -m venv /opt/idol-deploy \
    && export PATH="/opt/idol-deploy/bin:$PATH" PIP_NO_CACHE_DIR=1 \
    && pip install -c constraints.txt '.[openvino,video,serve,mqtt]' \
    && pip uninstall -y opencv-python \
    && pip install "$(sed -n 's/^opencv-python/&-headless/p' constraints.txt)" \
    && idol-deploy plugins build --into /opt/idol-deploy/plugins \
    && pip uninstall -y setuptools pip

FROM debian:12.15-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --groups video --home-dir /data --no-create-home idol-deploy \
    && install -d -o idol-deploy -g idol-deploy /data
COPY --from=build /opt/idol-deploy /opt/idol-deploy
ENV PATH=/opt/idol-deploy/bin:$PATH IDOL_PLUGINS=/opt/idol-deploy/plugins PYTHONFAULTHANDLER=1
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8080
HEALTHCHECK --start-period=2m \
    CMD ["python3", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/healthz', timeout=5)"]
ENTRYPOINT ["idol-deploy"]
CMD ["serve", "model.idol", "--streams", "streams.json", "--http", "0.0.0.0:8080", \
     "--token-file", "/run/secrets/idol-deploy-token", "--data", "results", "--state", "results/{source}.state", \
     "--rotate", "1h", "--retain", "7d,5GB"]

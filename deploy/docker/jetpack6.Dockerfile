# Not built, not run: no Jetson was at hand. NVIDIA's tags were read in public Dockerfiles.
# JetPack 6.1 and 6.2 (L4T R36.4, Orin): CUDA 12.6, TensorRT 10.3, Python 3.10. On the Jetson, in the repository's folder:
#   docker build -f deploy/docker/jetpack6.Dockerfile -t idol-deploy:jetpack6 .
FROM nvcr.io/nvidia/l4t-tensorrt:r10.3.0-devel AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake g++ make python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The system's packages have TensorRT and OpenCV. Without constraints.txt, which pins a numpy that this OpenCV does not load.
RUN python3 -m venv --system-site-packages /opt/idol-deploy \
    && /opt/idol-deploy/bin/pip install --no-cache-dir '.[cpu,jetson,serve,mqtt]' \
    && /opt/idol-deploy/bin/idol-deploy plugins build --cuda 87 --into /opt/idol-deploy/plugins

FROM nvcr.io/nvidia/l4t-tensorrt:r10.3.0-runtime
# GStreamer reads CSI cameras; the container runtime mounts NVIDIA's elements.
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        ca-certificates gstreamer1.0-plugins-good gstreamer1.0-tools python3 python3-opencv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -c "from importlib.util import find_spec; assert find_spec('tensorrt'), 'no TensorRT for Python'" \
    && useradd --uid 10001 --groups video --home-dir /data --no-create-home idol-deploy \
    && install -d -o idol-deploy -g idol-deploy /data
COPY --from=build /opt/idol-deploy /opt/idol-deploy
ENV PATH=/opt/idol-deploy/bin:$PATH IDOL_PLUGINS=/opt/idol-deploy/plugins PYTHONFAULTHANDLER=1
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

# Not built, not run: no Jetson was at hand. NVIDIA's tags and package versions were read in public Dockerfiles.
# JetPack 7.2 (L4T R39.2, Orin and Thor): CUDA 13.2, TensorRT 10.16.2, Python 3.12. On the Jetson, in the repository's folder:
#   docker build -f deploy/docker/jetpack7.Dockerfile -t idol-deploy:jetpack7 .
FROM nvidia/cuda:13.2.0-devel-ubuntu24.04 AS build
# TensorRT of JetPack's own repository. Older ones need libnvdla_compiler.so, which JetPack 7.2 does not have, and newer
# ones do not support all Jetsons.
ADD https://repo.download.nvidia.com/jetson/jetson-ota-public.asc /etc/apt/keyrings/jetson.asc
RUN chmod 644 /etc/apt/keyrings/jetson.asc \
    && echo "deb [signed-by=/etc/apt/keyrings/jetson.asc] https://repo.download.nvidia.com/jetson/common r39.2 main" \
        > /etc/apt/sources.list.d/jetson.list \
    && printf 'Package: *nvinfer* *nvonnxparsers*\nPin: version 10.16.2.10-1+cuda13.2\nPin-Priority: 1001\n' \
        > /etc/apt/preferences.d/tensorrt \
    && apt-get update \
    && apt-get install -y --no-install-recommends cmake g++ libnvinfer-headers-dev make python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The system's packages have TensorRT and OpenCV. Without constraints.txt, which pins a numpy that this OpenCV does not load.
RUN python3 -m venv --system-site-packages /opt/idol-deploy \
    && /opt/idol-deploy/bin/pip install --no-cache-dir '.[cpu,jetson,serve,mqtt]' \
    && /opt/idol-deploy/bin/idol-deploy plugins build --cuda '87;110' --into /opt/idol-deploy/plugins

FROM nvidia/cuda:13.2.0-base-ubuntu24.04
COPY --from=build /etc/apt/keyrings/jetson.asc /etc/apt/keyrings/
COPY --from=build /etc/apt/sources.list.d/jetson.list /etc/apt/sources.list.d/
COPY --from=build /etc/apt/preferences.d/tensorrt /etc/apt/preferences.d/
# GStreamer reads CSI cameras; the container runtime mounts NVIDIA's elements.
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        ca-certificates gstreamer1.0-plugins-good gstreamer1.0-tools python3 python3-libnvinfer python3-opencv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --groups video --home-dir /data --no-create-home idol-deploy \
    && install -d -o idol-deploy -g idol-deploy /data
COPY --from=build /opt/idol-deploy /opt/idol-deploy
ENV PATH=/opt/idol-deploy/bin:$PATH IDOL_PLUGINS=/opt/idol-deploy/plugins PYTHONFAULTHANDLER=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=all
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

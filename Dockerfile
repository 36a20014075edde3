# dashtop in a container. docs/deployment.md says how to run it.
FROM python:3.12-slim AS build
WORKDIR /source
COPY . .
RUN python -m venv /opt/dashtop && /opt/dashtop/bin/pip install --no-cache-dir '.[postgresql]' 'psycopg[binary]'

FROM python:3.12-slim
COPY --from=build /opt/dashtop /opt/dashtop
# Not root: everything but the names and owners of some other users' processes can be read without.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin dashtop && install -d -o dashtop -g dashtop -m 700 /data
USER 10001:10001
ENV PATH=/opt/dashtop/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DASHTOP_HOST=0.0.0.0 \
    DASHTOP_PORT=8050 \
    DASHTOP_DATA_DIR=/data \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=utility
VOLUME /data
EXPOSE 8050
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"DASHTOP_PORT\"]}/healthz', timeout=4)"]
ENTRYPOINT ["dashtop"]

# The service (docs/service.md) on the CPU:
#   docker build -t anople .
#   docker run -p 8000:8000 -v "$PWD/runs/line1:/detector" --user "$(id -u)" -e ANOPLE_TOKEN=... anople
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    HF_HOME=/tmp/huggingface MPLCONFIGDIR=/tmp/matplotlib

WORKDIR /package
COPY constraints.txt ./
# The CPU build of the tested torch: the usual one brings gigabytes of CUDA.
RUN pip install --index-url https://download.pytorch.org/whl/cpu "$(grep '^torch==' constraints.txt)"
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --constraint constraints.txt ".[serve]" && useradd --uid 10001 --no-create-home anople

WORKDIR /
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# SIGTERM, which `docker stop` sends, is answered: requests that run are finished.
ENTRYPOINT ["anople", "serve"]
CMD ["/detector", "--host", "0.0.0.0", "--port", "8000"]

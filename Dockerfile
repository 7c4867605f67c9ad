# The viewer on a CPU. Build and run:
#   docker build -t cxrdemo .
#   docker run --rm -p 7860:7860 cxrdemo
# With PyTorch's CPU wheels, a tenth of the size, from the index that PyTorch's site names:
#   docker build -t cxrdemo --build-arg EXTRA_INDEX=URL .
FROM python:3.11-slim

ARG EXTRA_INDEX=""

RUN useradd --create-home --uid 1000 viewer
WORKDIR /home/viewer/app

# The lock has the hashes of plain wheels; another index has wheels of its own.
COPY requirements.txt requirements.lock ./
RUN if [ -z "${EXTRA_INDEX}" ]; then \
        pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock; \
    else \
        PIP_EXTRA_INDEX_URL="${EXTRA_INDEX}" \
        pip install --no-cache-dir --disable-pip-version-check -r requirements.txt; \
    fi

COPY --chown=viewer app.py LICENSE ./
COPY --chown=viewer cxrdemo ./cxrdemo
COPY --chown=viewer checkpoints ./checkpoints

# By number: a cluster that refuses root cannot tell who a name is.
USER 1000
ENV GRADIO_SERVER_NAME=0.0.0.0 \
    GRADIO_SERVER_PORT=7860 \
    PYTHONUNBUFFERED=1
EXPOSE 7860

# The page answers before its models are loaded.
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s CMD \
    ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/gradio_api/startup-events', timeout=4)"]

CMD ["python", "app.py"]

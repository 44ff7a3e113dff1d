# mcr-infer on a CPU. Not built by us yet: there was no Docker engine where this was written. Its commands but for apt-get were
# run by hand on Debian 12.
#
#   docker build --tag mcr-infer .
#   docker run --rm --network none --user "$(id -u):$(id -g)" --volume /archive:/archive:ro --volume "$PWD:/work" \
#       mcr-infer embed-images /archive
#   docker run --rm --network none --user "$(id -u):$(id -g)" --volume "$PWD:/work" mcr-infer query "left pneumothorax"

FROM python:3.11-slim-bookworm AS build
ARG EXTRAS=cpu,codecs
RUN apt-get update && apt-get install --yes --no-install-recommends build-essential && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Makefile pyproject.toml README.md LICENSE ./
COPY mcr_infer mcr_infer
RUN make wheelhouse EXTRAS=$EXTRAS
RUN python3 -m venv /opt/mcr-infer \
    && /opt/mcr-infer/bin/python -m pip install --no-cache-dir --no-index --find-links wheelhouse "mcr-infer[$EXTRAS]"

# The same image, so that the environment finds its Python; no compiler, no wheels, no network.
FROM python:3.11-slim-bookworm
RUN useradd --create-home --uid 1000 mcr && install --directory --owner=mcr --group=mcr /work
COPY --from=build /opt/mcr-infer /opt/mcr-infer
ENV PATH=/opt/mcr-infer/bin:$PATH
USER mcr
WORKDIR /work
ENTRYPOINT ["mcr-infer"]
CMD ["--help"]

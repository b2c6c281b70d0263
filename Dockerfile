# Shoal on CPU with its default models. How to build and run it: deploy/README.md.
# BASE_IMAGE is any Debian with Python 3.11 or newer and its venv module. A release (RELEASE=true) names
# it by digest, so that what is built can be built again; else the build ends at once.
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS build
ARG BASE_IMAGE
ARG RELEASE=false
RUN case "$RELEASE:$BASE_IMAGE" in \
        false:* | true:*@sha256:*) ;; \
        *) echo "a release names its base by digest: BASE_IMAGE=NAME@sha256:..." >&2; exit 1 ;; \
    esac
# "true" adds PyTorch's CPU build, for models that the native kernels do not know; PIP_ARGS is handed
# to pip: where that build is, if pip does not find it by itself.
ARG WITH_TORCH=false
ARG PIP_ARGS=""
# Names of models/catalogue.toml, separated by commas, to fetch into the image.
ARG MODELS=""
# The native kernels need a compiler and Python's headers; Debian has those in a package of their own.
RUN headers=$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))') \
    && packages="$(command -v c++ > /dev/null || echo g++) \
        $(test -e "$headers/Python.h" || echo python3-dev)" \
    && if [ -n "$(echo $packages)" ]; then \
        apt-get update && apt-get install --yes --no-install-recommends $packages; fi
WORKDIR /src
COPY requirements requirements
COPY deploy/install.sh deploy/
# Bytecode is compiled here: the running container has no place to keep it.
RUN export UV_COMPILE_BYTECODE=1 \
    && python3 -m venv /opt/shoal \
    && deploy/install.sh /opt/shoal/bin/python build server \
    && if [ "$WITH_TORCH" = true ]; then deploy/install.sh /opt/shoal/bin/python torch-cpu; fi
COPY pyproject.toml README.md LICENSE ./
COPY LICENSES LICENSES
COPY service service
COPY models /models
# What the image holds, for whoever scans it.
COPY deploy/sbom.py deploy/
RUN ln -s /models models \
    && python3 deploy/sbom.py server $([ "$WITH_TORCH" = true ] && echo torch-cpu) \
        > /opt/shoal/sbom.cdx.json
# Without pip in the image nothing more can be pulled there: what is not in it is not offered.
RUN if [ -n "$MODELS" ]; then PYTHONPATH=service \
        /opt/shoal/bin/python -m shoal.commands.fetch "$MODELS" /models $PIP_ARGS; \
    else rm /models/catalogue.toml; fi
# A native library that does not load ends the build. What only building, debugging and downloading
# need does not go into the image: build tools, headers, tests, huggingface-hub (tokenizers uses it to
# download only), symbols (but for libraries that wheels carry: those were patched and strip breaks
# them). The server is not root, so what it reads has to be readable, whatever modes the files came with.
RUN /opt/shoal/bin/python -m pip install --quiet --no-deps --no-build-isolation . \
    && /opt/shoal/bin/python -c 'import shoal.kernels._native' \
    && /opt/shoal/bin/python -m pip uninstall --quiet --yes \
        cmake nanobind ninja pathspec scikit-build-core uv hf-xet huggingface-hub \
        $([ "$WITH_TORCH" = true ] || echo setuptools) pip \
    && cd /opt/shoal/lib/python3*/site-packages \
    && rm -rf torch/include \
    && find . -type d -name tests -prune -exec rm -rf {} + \
    && find . -name '*.so' -not -path './*.libs/*' -not -path './torch/*' -exec strip --strip-debug {} + \
    && chmod -R a+rX /opt/shoal /models

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="Shoal" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/shoal /opt/shoal
COPY --from=build /models /models
# Reachable from outside the container, so `shoal serve` starts only with SHOAL_API_KEYS set, or
# with SHOAL_ALLOW_UNAUTHENTICATED=true said aloud.
ENV PATH=/opt/shoal/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SHOAL_HOST=0.0.0.0 \
    SHOAL_PORT=8000 \
    SHOAL_MODELS_DIR=/models
WORKDIR /srv
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["python3", "-c", "\
import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"SHOAL_PORT\"]}/readyz')"]
ENTRYPOINT ["shoal"]
CMD ["serve"]

# A tag, which moves with the fixes of what it names. For one that stays, name it by digest (deploy/example.env shows how):
# docker build --build-arg BASE=python:3.11-slim-bookworm@sha256:… .
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS uv
# Only for builds behind a mirror of PyPI: unset, both installers use PyPI itself. Said again where it is used, because
# not every builder hands arguments on to the stages built on this one.
ARG PIP_INDEX_URL
ARG UV_DEFAULT_INDEX
# Each installer carries certificates of its own; with these two both trust what the base trusts, so that a base
# with a company's certificate in it builds behind that company's proxy.
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
    UV_SYSTEM_CERTS=1 \
    UV_NO_CACHE=1 \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /build
COPY requirements.lock ./
RUN awk '/^[^ ]/ {wanted = /^uv==/} wanted' requirements.lock > uv.txt \
    && python3 -m venv /opt/uv \
    && /opt/uv/bin/pip install --no-cache-dir --no-deps --require-hashes --requirement uv.txt

# The lock also holds what the demo and the developers need: this picks what serving needs, at the lock's versions.
# A stage of its own, so that a change of pyproject.toml that leaves the names alone installs nothing anew. Three are
# left out that TensorFlow lists: libclang is a compiler's library, which it imports nowhere; Keras 3, with optree and
# namex that only Keras 3 needs, is never imported where tf-keras is installed and TF_USE_LEGACY_KERAS is set.
FROM uv AS names
ARG UV_DEFAULT_INDEX
COPY pyproject.toml ./
RUN /opt/uv/bin/uv pip compile --quiet --no-header --no-annotate --extra opentelemetry --extra experience \
        --no-emit-package libclang --no-emit-package keras --no-emit-package optree --no-emit-package namex \
        --python python3 --constraint requirements.lock --output-file serving.txt pyproject.toml

FROM uv AS packages
ARG UV_DEFAULT_INDEX
COPY --from=names /build/serving.txt ./
# The hashes come from the lock, and a package that has none there stops the build. What a source package is built with
# is held to the lock too. Bytecode is written here because the server can write nowhere beside it; checked
# by hash and not by time, it is the same at every build, and so is TensorFlow's layer below.
RUN /opt/uv/bin/uv venv --quiet --python python3 /opt/venv \
    && PYC_INVALIDATION_MODE=CHECKED_HASH /opt/uv/bin/uv pip install --python /opt/venv --compile-bytecode \
        --no-deps --require-hashes --constraint requirements.lock --build-constraint requirements.lock \
        --requirement serving.txt
# What no process of the server opens, whichever the engine (docs/how-to/deploy.md: The size of the image). C++
# headers are for compiling custom operations; tensorflow_probability's substrates are for JAX and NumPy; LiteRT's
# tools and vendors are for phones, its accelerator for a GPU; Arrow's Flight is for other servers; nothing refers to
# the three libraries of TensorFlow. The lock file is uv's own, and anyone may write to it.
RUN cd /opt/venv/lib/python3.11/site-packages \
    && rm -r /opt/venv/.lock \
        tensorflow/include \
        tensorflow/compiler/mlir/stablehlo/stablehlo_extension.so \
        tensorflow/compiler/tf2xla/ops/_xla_ops.so \
        tensorflow/python/framework/lib_native_proto_caster.so \
        tensorflow_probability/substrates \
        pyarrow/include pyarrow/libarrow_flight.so.2500 \
        ai_edge_litert/tools ai_edge_litert/vendors ai_edge_litert/libLiteRtWebGpuAccelerator.so \
    && find . -type d -name tests -prune -exec rm -r {} + \
    && find . -type f \( -name '*.pyi' -o -name '*.h' -o -name '*.hpp' \) -delete
# The names of functions that only a debugger reads. Not in the libraries of numpy and h5py: their wheels were made
# with patchelf, after which strip may break them.
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends binutils > /dev/null \
    && cd /opt/venv/lib/python3.11/site-packages \
    && find . -type f -name '*.so*' -not -path './numpy*' -not -path './h5py*' -exec strip --strip-unneeded {} +
# TensorFlow is three quarters of all bytes and changes least: it gets a layer of its own.
RUN site=/opt/venv/lib/python3.11/site-packages \
    && mkdir -p "/opt/tensorflow$site" \
    && mv "$site/tensorflow" "/opt/tensorflow$site/"

FROM ${BASE} AS code
WORKDIR /srv/policy-server
COPY LICENSE ./
COPY app app
COPY saver saver
COPY deploy/entrypoint.sh deploy/healthcheck.py deploy/
# A checkout made under a strict umask would otherwise be unreadable to the server's user.
RUN chmod -R a+rX . && python3 -m compileall -q --invalidation-mode checked-hash app saver

FROM ${BASE}
LABEL org.opencontainers.image.title="policy server" \
      org.opencontainers.image.description="Serves TF-Agents policies over HTTP and swaps their weights while it serves." \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 policy \
    && useradd --uid 10001 --gid policy --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin policy \
    && mkdir /policies /state /experience && chown policy:policy /state /experience
COPY --from=packages /opt/tensorflow/opt/venv /opt/venv
COPY --from=packages /opt/venv /opt/venv
COPY --from=code /srv/policy-server /srv/policy-server
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    POLICY_SERVER_HOST=0.0.0.0 \
    POLICY_SERVER_PORT=8000
WORKDIR /srv/policy-server
# By number: Kubernetes can only tell that a number is not root.
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# The start period covers importing TensorFlow and reading the policies on a slow machine.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "deploy/healthcheck.py"]
ENTRYPOINT ["sh", "deploy/entrypoint.sh"]

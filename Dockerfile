# One image for every role: `umbel up` runs all of them, `umbel api`, `umbel worker` and `umbel beat` one.
#
#   docker build -t umbel .
#
# BASE_IMAGE and BUILDER_IMAGE take others of the same Debian release, for registries of one's own.
ARG BASE_IMAGE=debian:bookworm-slim
ARG BUILDER_IMAGE=rust:1.95-slim-bookworm

# All but the program. First, because `scripts/image --binary` builds it alone.
FROM ${BASE_IMAGE} AS runtime
# redis-server is for `umbel dev`, its command line for whoever looks inside.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates redis-server \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
# By number, so that a platform can see that it is not root.
RUN useradd --system --uid 10001 --home-dir /var/lib/umbel --create-home --shell /usr/sbin/nologin umbel
USER 10001:10001
WORKDIR /var/lib/umbel
# Memory that a large page has taken goes back after half a second: three roles share the container's.
ENV HOST=0.0.0.0 \
    LOG_FORMAT=json \
    _RJEM_MALLOC_CONF=narenas:2,dirty_decay_ms:500,muzzy_decay_ms:0,background_thread:true
EXPOSE 8000
STOPSIGNAL SIGTERM
# Of `up` and `api`. Containers of the other roles say `umbel health worker` or `umbel health beat`.
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s --retries=3 CMD ["umbel", "health"]
CMD ["umbel", "up"]

FROM ${BUILDER_IMAGE} AS build
# For jemalloc, which is C.
RUN command -v make >/dev/null || { apt-get update && apt-get install -y --no-install-recommends make; }
WORKDIR /src
# First the dependencies, for crates without content: a layer that is made anew only when a manifest is.
COPY Cargo.toml Cargo.lock ./
COPY proto/Cargo.toml proto/
COPY broker/Cargo.toml broker/
COPY store/Cargo.toml store/
COPY worker/Cargo.toml worker/
COPY beat/Cargo.toml beat/
COPY api/Cargo.toml api/
COPY umbel/Cargo.toml umbel/
COPY tasks/Cargo.toml tasks/
COPY supervisor/Cargo.toml supervisor/
COPY examples/greeter/Cargo.toml examples/greeter/
COPY tests/Cargo.toml tests/
COPY bench/Cargo.toml bench/
RUN for crate in */Cargo.toml examples/*/Cargo.toml; do \
        mkdir -p "${crate%/*}/src" \
        && echo '#![allow(dead_code)] fn main() {}' | tee "${crate%/*}/src/lib.rs" >"${crate%/*}/src/main.rs"; \
    done \
    && mkdir -p tests/tests/it && echo 'fn main() {}' >tests/tests/it/main.rs \
    && cargo build --release --locked --package umbel-supervisor --features jemalloc \
    && rm -r */src examples/*/src tests/tests
COPY . .
# Newer than what was built from empty crates, whatever their dates; what build scripts wrote stays old.
RUN find . -path ./target -prune -o -name '*.rs' -exec touch {} + \
    && cargo build --release --locked --package umbel-supervisor --features jemalloc

FROM runtime
COPY --from=build /src/target/release/umbel /usr/local/bin/umbel

FROM rust:1.95-bookworm AS build
# The C libraries zlib-ng and aws-lc are built with cmake.
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
# The caches keep the dependencies between builds. Cargo compares the times of files, and a fresh checkout
# can be older than the sources of the cached build. `touch` makes Cargo build our own crate.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    touch src/lib.rs src/main.rs \
    && cargo build --release --locked --bin yatagarasu \
    && cp target/release/yatagarasu .

FROM debian:bookworm-slim
# The roots that verify the stores' certificates.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --chmod=755 scripts/healthcheck.sh /usr/local/bin/healthcheck
COPY --from=build /build/yatagarasu /usr/local/bin/yatagarasu
# Numbers, because the runAsNonRoot of Kubernetes cannot resolve a name.
USER 10001:10001
EXPOSE 8080 9090
# The slim image has neither curl nor wget, and curl would bring a dozen libraries to patch. The script
# needs bash only. With another server.port, run the container with another health command.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["/usr/local/bin/healthcheck", "8080"]
# The exec form, so that the program is PID 1 and gets SIGHUP and SIGTERM itself.
ENTRYPOINT ["/usr/local/bin/yatagarasu"]
CMD ["--config", "/etc/yatagarasu/config.yaml"]

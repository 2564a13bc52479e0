#!/usr/bin/env bash
# Makes stand-ins for the public images that compose.yaml and the Dockerfile name, for machines that reach no image registry: a root
# file system from debootstrap, jars from Maven, programs from npm, and this machine's own Rust toolchain. As root on Debian or Ubuntu:
#
#   compose/docker/local/build.sh [--ca FILE]…
#
# --ca names a certificate authority (PEM) that cargo has to trust inside the build. KMS_STACK names a kms-stack that is already built.
# Afterwards name the images, as local.env does:
#
#   docker compose --env-file compose/.env --env-file compose/docker/local/local.env -f compose/compose.yaml up --wait
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)

authorities=()
while [ $# -gt 0 ]; do
    case $1 in
    --ca) authorities+=("$(realpath "$2")"); shift 2 ;;
    *) echo "usage: build.sh [--ca FILE]…" >&2; exit 2 ;;
    esac
done
for program in docker debootstrap mvn npm java rustc cargo; do
    command -v "$program" >/dev/null || { echo "build.sh: $program is missing" >&2; exit 3; }
done
export DOCKER_BUILDKIT=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if ! docker image inspect local/debian:bookworm >/dev/null 2>&1; then
    echo "== local/debian:bookworm"
    debootstrap --variant=minbase bookworm "$work/rootfs" >"$work/debootstrap.log" || { tail "$work/debootstrap.log" >&2; exit 1; }
    tar -C "$work/rootfs" -c . | docker import --change 'CMD ["bash"]' - local/debian:bookworm
fi

context=$work/context
mkdir -p "$context"/{rust/ca,rust/toolchain,anvil/bin,kafka,bucket}

# Kafka and the registry, as the stack without Docker uses them.
export KMS_STACK_CACHE=$work/cache
if [ -n "${KMS_STACK:-}" ]; then
    "$KMS_STACK" fetch --registry
else
    (cd "$root" && cargo run --release --quiet -- fetch --registry)
fi
cp -r "$work"/cache/kafka-*/libs "$context/kafka/libs"
cp -r "$work"/cache/registry-*/ "$context/registry"
install -m 755 "$here/kafka-run" "$context/kafka/run"
cp "$here/log4j2.yaml" "$context/kafka/log4j2.yaml"
cp "$here/log4j2.yaml" "$context/kafka/tools-log4j2.yaml"
# A single broker's default, which compose.yaml's variables replace.
printf '%s\n' process.roles=broker,controller node.id=1 log.dirs=/var/lib/kafka/data >"$context/kafka/server.properties"

# anvil: the native program out of its package, no script run.
npm install --silent --ignore-scripts --prefix "$work/npm" @foundry-rs/anvil@1.7.1
install -m 755 "$work"/npm/node_modules/@foundry-rs/anvil-linux-*/bin/anvil "$context/anvil/bin/anvil"

# The bucket.
mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy -DoutputDirectory="$context/bucket" \
    -Dartifact=com.adobe.testing:s3mock:4.4.0:jar:exec
mv "$context"/bucket/s3mock-*.jar "$context/bucket/s3mock.jar"

# The toolchain without its documentation, and whom to trust.
toolchain=$(rustc --print sysroot)
tar -C "$toolchain" -c --exclude=lib/rustlib/src bin lib | tar -C "$context/rust/toolchain" -x
for authority in ${authorities[@]+"${authorities[@]}"}; do
    cp "$authority" "$context/rust/ca/$(basename "${authority%.*}").crt"
done

cp "$here/Dockerfile" "$context/Dockerfile"
for image in rust anvil kafka registry bucket; do
    echo "== local/$image"
    docker build --quiet --target "$image" --tag "local/$image" "$context"
done

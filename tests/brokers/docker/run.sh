#!/bin/bash
# Exercise the Docker rung for real on a machine without Docker and without an image registry:
#   tests/brokers/docker/run.sh [COMMAND…]        default: the tests of the Docker rung
# builds images from Debian's packages and the installed jars, starts a private engine, runs the command beside it.
#
# Engine and command live in network, mount and pid namespaces of their own: the host's interfaces and filter rules are
# not touched, and every process ends with this one, even by kill -9. The command has no network but the containers'.
# Needs root and Debian's docker.io, iptables and mmdebstrap. UNIMQ_DOCKER_HOME keeps images and engine (1.5 GB).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/../../.." && pwd)
home=${UNIMQ_DOCKER_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/unimq/docker}
brokers=${UNIMQ_BROKERS_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/unimq/brokers}
python=$project/.venv/bin/python

build() {
	printf 'FROM unimq-tap:base\nCMD ["%s"]\nEXPOSE %s\n' "$2" "$3" |
		DOCKER_BUILDKIT=0 docker build -q -t "$1" - > /dev/null 2>&1
}

inside() {
	ip link set lo up
	rm -rf "$home/exec" "$home/pid"
	dockerd --data-root "$home/data" --exec-root "$home/exec" --pidfile "$home/pid" -H "unix://$home/docker.sock" \
		> "$home/dockerd.log" 2>&1 < /dev/null &
	engine=$!
	export DOCKER_HOST=unix://$home/docker.sock
	for _ in $(seq 200); do
		docker version > /dev/null 2>&1 && break
		kill -0 $engine || { tail -5 "$home/dockerd.log" >&2; exit 1; }
		sleep 0.05
	done
	docker container prune -f > /dev/null # what an earlier kill -9 left on the disk
	if ! docker image inspect "$UNIMQ_TAP_IMAGE_SQS" > /dev/null 2>&1; then
		docker import "$home/base.tar" unimq-tap:base > /dev/null
		build "$UNIMQ_TAP_IMAGE_RABBITMQ" run-rabbitmq 5672
		build "$UNIMQ_TAP_IMAGE_KAFKA" run-kafka 9092
		build "$UNIMQ_TAP_IMAGE_SQS" run-sqs 4566
	fi
	code=0
	"$@" || code=$?
	kill $engine
	wait $engine || true
	return $code
}

if [ "${1:-}" = --inside ]; then
	shift
	inside "$@"
	exit
fi

[ "$(id -u)" = 0 ] || { echo "a private engine needs root" >&2; exit 1; }
missing=()
command -v dockerd > /dev/null || missing+=(docker.io)
command -v iptables > /dev/null || missing+=(iptables)
command -v mmdebstrap > /dev/null || missing+=(mmdebstrap)
if [ ${#missing[@]} -gt 0 ]; then
	command -v apt-get > /dev/null || { echo "missing: ${missing[*]}" >&2; exit 1; }
	apt-get update -qq
	# The packages' service is not wanted: a policy that forbids starting one, for as long as the installation lasts.
	policy=/usr/sbin/policy-rc.d
	[ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' > $policy && chmod +x $policy && trap 'rm -f $policy' EXIT; }
	apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

mkdir -p "$home"
if [ ! -s "$home/base.tar" ]; then
	"$python" -m unimq_contract.brokers install kafka sqs
	tree=$(mktemp -d)
	cp -r "$here/rootfs/." "$tree"
	mkdir -p "$tree/opt"
	cp -r "$brokers"/kafka-*/libs "$tree/opt/kafka"
	cp -r "$brokers"/ministack-*/site "$tree/opt/ministack"
	# openjdk's installation wants the folder of manuals, which is left out with all the documentation.
	mmdebstrap --quiet --variant=minbase --include=rabbitmq-server,openjdk-17-jre-headless,python3 \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' --essential-hook='mkdir -p "$1/usr/share/man/man1"' \
		--customize-hook="copy-in $tree/usr $tree/opt /" bookworm "$home/base.new.tar"
	rm -rf "$tree"
	mv "$home/base.new.tar" "$home/base.tar"
fi

read -r kafka ministack < <("$python" -c 'import unimq_contract.brokers.versions as v; print(v.KAFKA, v.MINISTACK)')
export UNIMQ_TAP_IMAGE_RABBITMQ=unimq-tap/rabbitmq:bookworm
export UNIMQ_TAP_IMAGE_KAFKA=unimq-tap/kafka:$kafka
export UNIMQ_TAP_IMAGE_SQS=unimq-tap/ministack:$ministack
[ $# -gt 0 ] || set -- "$python" -m pytest "$project/tests/brokers/test_docker.py" -p no:cacheprovider
exec unshare -n -m -p -f --mount-proc --kill-child=KILL bash "$0" --inside "$@"

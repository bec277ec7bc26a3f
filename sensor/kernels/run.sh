#!/usr/bin/env bash
# Runs the sensor's matrix of routes on this kernel and, in an emulator, on
# Debian's 6.1, 6.12 and newest kernels. Prints a table: kernel x route.
#   run.sh [--write FILE]   also write the table to FILE (docs/coverage.md's)
# TESTS='TestMatrix|TestHashOfWhatIsGone' also runs the storm of programs that unlink
# themselves, on each kernel (five minutes more).
# With BENCH=1 it counts instructions a fork and exec instead, on 6.12, in an
# emulator whose clock is the count of instructions.
# Kernels are kept in the user's cache directory.
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/contraband/kernels
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$cache"

# The archive that this machine installs from; it also holds the newer suites.
archive=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' 'Created-By: Packages' | head -1)

backports() { # apt-cache or apt-get, in a configuration of its own
	local program=$1 at=$cache/apt; shift
	mkdir -p "$at/lists/partial" "$at/cache/archives/partial"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive trixie-backports main" >"$at/sources.list"
	"$program" -o Dir::State::lists="$at/lists" -o Dir::Etc::sourcelist="$at/sources.list" -o Dir::Etc::sourceparts=- -o Dir::Cache="$at/cache" "$@"
}

# fetch NAME PACKAGE... : the kernel and its modules below $cache/NAME
fetch() {
	local name=$1 with=$2; shift 2
	[ -f "$cache/$name/ready" ] && return
	echo "fetching the kernel $name: $*" >&2
	rm -rf "${cache:?}/$name"; mkdir -p "$cache/$name"
	(cd "$cache/$name" && $with apt-get -qq download "$@" 2>/dev/null && for p in *.deb; do dpkg -x "$p" . && rm "$p"; done && touch ready)
}

direct() { "$@"; }
of() { apt-cache depends "$1" | awk '/Depends: linux-image/{print $2; exit}'; }

old=$(of linux-image-amd64) mid=$(of linux-image-6.12-amd64)
fetch "${old#linux-image-}" direct "$old"
fetch "${mid#linux-image-}" direct "$mid"
backports apt-get -qq update 2>/dev/null
new=$(backports apt-cache search --names-only '^linux-binary-[0-9].*-amd64$' | awk '{print $1}' | grep -v -e -cloud- -e -rt- | sed 's/^linux-binary-//' | sort -V | tail -1)
fetch "$new" backports "linux-binary-$new" "linux-modules-$new"

echo "building the guest" >&2
guest=$work/guest
mkdir -p "$guest"/{bin,proc,sys,dev,tmp,run,fixture,lib64,usr/bin,etc}
CGO_ENABLED=0 go test -c -o "$guest/sensor.test" ./sensor
sh sensor/testdata/fixture.sh "$guest/fixture"
cp "$(command -v busybox)" "$guest/bin/busybox"
cp "$(command -v runc)" "$guest/bin/runc"
ldd "$(command -v runc)" | grep -o '/[^ ]*' | while read -r f; do mkdir -p "$guest$(dirname "$f")"; cp -L "$f" "$guest$f"; done
for a in $("$guest/bin/busybox" --list); do [ -e "$guest/bin/$a" ] || ln -s busybox "$guest/bin/$a"; done
cat >"$guest/init" <<'INIT'
#!/bin/sh
export PATH=/bin HOME=/tmp SENSOR_TEST_FIXTURE=/fixture
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup /sys/fs/cgroup; mount -t tracefs tracefs /sys/kernel/tracing; mount -t securityfs securityfs /sys/kernel/security
ip link set lo up
insmod /overlay.ko || echo "GUEST no overlay"
cd /tmp && /sensor.test $(cat /etc/tests) -test.v -test.count=1
echo "GUEST exit $?"
poweroff -f
INIT
chmod 755 "$guest/init"

# boot NAME: the matrix on that kernel
boot() {
	local name=$1 module
	local image
	image=$(find "$cache/$name" -name 'vmlinuz*' -type f | head -1)
	module=$(find "$cache/$name" -name 'overlay.ko*' | head -1)
	case $module in
	*.xz) xz -dc "$module" >"$guest/overlay.ko" ;;
	*) cp "$module" "$guest/overlay.ko" ;;
	esac
	echo "$tests" >"$guest/etc/tests"
	(cd "$guest" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/init.gz"
	echo "booting $name" >&2
	# shellcheck disable=SC2086 # several options
	timeout 900 qemu-system-x86_64 -nodefaults -no-user-config -M q35 $machine -cpu max -m 3072 \
		-kernel "$image" -initrd "$work/init.gz" -append "console=ttyS0 panic=-1 quiet" -serial stdio -display none -no-reboot \
		</dev/null | tr -d '\r' >"$work/$name.log" || true
	if ! grep -q '^GUEST exit 0' "$work/$name.log"; then
		echo "!! $name failed:" >&2
		grep -v '^MATRIX' "$work/$name.log" | tail -60 >&2
		failed=1
	fi
}

failed=0
# One thread for both processors: with one each, the emulator can run an instruction that
# the kernel has patched meanwhile, and the kernel dies of "Oops: int3" (1 start in 34).
tests="-test.run ${TESTS:-TestMatrix}" machine="-accel tcg,thread=single -smp 2"
if [ -n "${BENCH:-}" ]; then
	tests="-test.run ^$ -test.bench BenchmarkInstructions -test.benchtime 1x" machine="-accel tcg,thread=single -smp 1 -icount shift=0"
	for peer in bpftrace execsnoop auditctl; do
		command -v $peer >/dev/null || continue
		cp "$(command -v $peer)" "$guest/bin/"
		ldd "$(command -v $peer)" | grep -o '/[^ ]*' | while read -r f; do mkdir -p "$guest$(dirname "$f")"; cp -L "$f" "$guest$f"; done
	done
	boot "${mid#linux-image-}"
	sed -n 's/^BENCH\t//p' "$work/${mid#linux-image-}.log"
	exit $failed
fi
go test -count=1 -run TestMatrix -v ./sensor >"$work/here.log" || { cat "$work/here.log" >&2; failed=1; }
mid=${mid#linux-image-}
boot "$mid"
tests="-test.run ${TESTS:-TestMatrix/(default|core)}" # all tiers at once: on one kernel is enough
for name in "${old#linux-image-}" "$new"; do boot "$name"; done

if [ $failed != 0 ]; then
	echo "what failed:" >&2
	grep -h -e '_test.go:[0-9]*: ' -e '^ *--- FAIL' "$work"/*.log | cut -c1-400 >&2
	exit 1
fi
go run ./sensor/kernels "$@" "$work"/*.log

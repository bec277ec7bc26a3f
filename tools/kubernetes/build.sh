#!/usr/bin/env bash
# Builds what a real cluster of one machine needs, from source, once per version:
#   build.sh           prints the directory with etcd, kube-apiserver, kubelet, ...
#   build.sh --where   prints it, and fails when it is not built
# From cold ten minutes on two cores; kept in the user's cache directory.
set -euo pipefail
cd "$(dirname "$0")"
sum=$(cat go.sum go.mod build.sh | sha256sum | cut -c1-16)
out=${XDG_CACHE_HOME:-$HOME/.cache}/contraband/kubernetes/$sum
if [ "${1:-}" = --where ] && [ ! -f "$out/ready" ]; then
	exit 1
fi
if [ ! -f "$out/ready" ]; then
	echo "building Kubernetes and etcd from source (some ten minutes): $out" >&2
	rm -rf "$out"; mkdir -p "$out"
	version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
	minor=$(cut -d. -f2 <<<"$version")
	stamp="-X k8s.io/component-base/version.gitVersion=$version -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=$minor -X k8s.io/component-base/version.gitTreeState=clean"
	export CGO_ENABLED=0
	go build -trimpath -ldflags '-s -w' -o "$out/etcd" go.etcd.io/etcd/server/v3
	for program in kube-apiserver kube-controller-manager kube-scheduler kubelet; do
		echo "  $program" >&2
		go build -trimpath -ldflags "-s -w $stamp" -o "$out/$program" "k8s.io/kubernetes/cmd/$program"
	done
	go build -trimpath -ldflags '-s -w' -o "$out/kwok" sigs.k8s.io/kwok/cmd/kwok
	kwok=$(go list -m -f '{{.Dir}}' sigs.k8s.io/kwok)
	for stage in node/fast node/heartbeat pod/fast; do
		for f in "$kwok/kustomize/stage/$stage"/*.yaml; do
			[ "$(basename "$f")" = kustomization.yaml ] || { echo ---; cat "$f"; }
		done
	done >"$out/kwok-stages.yaml"
	touch "$out/ready"
fi
echo "$out"

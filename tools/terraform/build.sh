#!/usr/bin/env bash
# Builds what the Terraform tests run with, from source, once per version, and prints
# where it is:
#   build.sh google     a mirror with the real google provider (5 min on two cores, 1 GB to fetch)
#   build.sh opentofu   tofu (3 min)
#   build.sh lint       a directory with tflint and terraform-docs (2 min)
# Kept in the user's cache directory.
set -euo pipefail
what=$1
cd "$(dirname "$0")/$what"
sum=$(cat go.sum go.mod ../build.sh | sha256sum | cut -c1-16)
out=${XDG_CACHE_HOME:-$HOME/.cache}/contraband/terraform/$what-$sum
version=7.39.0
if [ ! -f "$out/ready" ]; then
	echo "building $what from source: $out" >&2
	rm -rf "$out"; mkdir -p "$out"
	export CGO_ENABLED=0
	case $what in
	google)
		for registry in registry.terraform.io registry.opentofu.org; do
			mkdir -p "$out/$registry/hashicorp/google/$version/linux_amd64"
		done
		file=hashicorp/google/$version/linux_amd64/terraform-provider-google_v$version
		go build -trimpath -ldflags "-s -w -X github.com/hashicorp/terraform-provider-google/version.ProviderVersion=$version" \
			-o "$out/registry.terraform.io/$file" github.com/hashicorp/terraform-provider-google
		ln "$out/registry.terraform.io/$file" "$out/registry.opentofu.org/$file"
		;;
	opentofu) go build -trimpath -ldflags '-s -w' -o "$out/tofu" github.com/opentofu/opentofu/cmd/tofu ;;
	lint)
		go build -trimpath -ldflags '-s -w' -o "$out/tflint" github.com/terraform-linters/tflint
		go build -trimpath -ldflags '-s -w' -o "$out/terraform-docs" github.com/terraform-docs/terraform-docs
		;;
	esac
	touch "$out/ready"
fi
echo "$out"

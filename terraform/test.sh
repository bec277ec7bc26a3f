#!/usr/bin/env bash
# All tests of the module, on a copy of it: format, validate, lint, the tables of the
# READMEs, `terraform test` of every module and example with the real provider's
# validation, then the plans and a whole life on a loopback server (go test). With
# Terraform where it is on the machine, else OpenTofu; validate and one test under
# OpenTofu too. Ends with "N passed, N failed".
#   test.sh --upgrade-from REVISION   only: that state of the module, then this one over it
set -uo pipefail
cd "$(dirname "$0")/.."
build() { bash tools/terraform/build.sh "$1"; }
mirror=$(build google) && lint=$(build lint) && tofu=$(build opentofu)/tofu || { echo "the tools cannot be built here: the provider and OpenTofu come from the Go module proxy, and are built from source" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r terraform workflows "$work/"
for registry in registry.terraform.io registry.opentofu.org; do
	cat >"$work/$registry.rc" <<RC
disable_checkpoint = true
provider_installation {
  filesystem_mirror {
    path    = "$mirror"
    include = ["$registry/hashicorp/*"]
  }
}
RC
done
terraform=$(command -v terraform || true)
rc=$work/registry.terraform.io.rc
if [ -z "$terraform" ]; then
	echo "terraform is not on this machine: OpenTofu it is" >&2
	terraform=$tofu rc=$work/registry.opentofu.org.rc
fi
export TF_CLI_CONFIG_FILE=$rc CHECKPOINT_DISABLE=1 TF_IN_AUTOMATION=1
if [ "${1:-}" = --upgrade-from ]; then
	mkdir "$work/from"
	git archive "$2" terraform workflows | tar -x -C "$work/from"
	CONTRABAND_TERRAFORM=$terraform CONTRABAND_UPGRADE_FROM=$work/from go test -count=1 -v -run TestUpgrade ./terraform
	exit
fi
# No plan and no test may reach anything.
export GOOGLE_OAUTH_ACCESS_TOKEN=none HTTPS_PROXY=http://127.0.0.1:9 NO_PROXY=127.0.0.1

passed=0 failed=0
check() { # what, command...
	local what=$1 log
	shift
	if log=$("$@" 2>&1); then
		passed=$((passed + 1)); echo "ok    $what"
	else
		failed=$((failed + 1)); echo "FAIL  $what"; sed 's/^/      /' <<<"$log" | tail -40
	fi
}
in_dir() { (cd "$work/terraform/$1" && shift && "$@"); }

check "fmt" "$terraform" fmt -check -recursive -diff terraform
dirs=$(cd terraform && ls -d . modules/*/ examples/*/)
for d in $dirs; do
	check "$d init" in_dir "$d" "$terraform" init -backend=false -no-color -input=false
	check "$d validate" in_dir "$d" "$terraform" validate -no-color
	check "$d test" in_dir "$d" "$terraform" test -no-color
	check "$d tflint" in_dir "$d" "$lint/tflint" --no-color --config="$work/terraform/.tflint.hcl"
	check "$d tables" in_dir "$d" "$lint/terraform-docs" markdown table --config="$work/terraform/.terraform-docs.yml" --output-check .
done
if [ "$terraform" != "$tofu" ]; then
	other=$(mktemp -d -p "$work"); cp -r terraform workflows "$other/"
	under() { (cd "$other/terraform" && TF_CLI_CONFIG_FILE=$work/registry.opentofu.org.rc "$tofu" "$@"); }
	check "OpenTofu init" under init -backend=false -no-color
	check "OpenTofu validate" under validate -no-color
	check "OpenTofu test" under test -no-color
fi

unset HTTPS_PROXY
export CONTRABAND_TERRAFORM=$terraform
# The module as it was before its resources were last renamed: this one goes over it.
renamed=$(git log --max-count=1 --diff-filter=A --format=%H -- terraform/moved.tf)
mkdir "$work/from"
upgrade=()
if [ -n "$renamed" ] && git archive "$renamed^" terraform workflows 2>/dev/null | tar -x -C "$work/from" 2>/dev/null; then
	export CONTRABAND_UPGRADE_FROM=$work/from
else
	echo "NOT RUN: TestUpgrade: this clone has no history, so there is no earlier module" >&2
	upgrade=(-skip TestUpgrade)
fi
log=$work/go.log
go test -count=1 -timeout 30m -v "${upgrade[@]}" ./terraform 2>&1 | tee "$log" | grep -E '^ *--- (FAIL|SKIP)|^        |^ok|^FAIL|panic:'
passed=$((passed + $(grep -cE '^ *--- PASS' "$log")))
failed=$((failed + $(grep -cE '^ *--- (FAIL|SKIP)' "$log"))) # what is not run here is not tested anywhere
grep -qE '^ok' "$log" || failed=$((failed + 1))
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]

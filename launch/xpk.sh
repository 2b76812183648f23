#!/usr/bin/env bash
# GKE through XPK: a workload on an existing cluster of TPUs (https://github.com/AI-Hypercomputer/xpk).
#   launch/xpk.sh --cluster NAME --workload NAME --type v5litepod-64 --image IMAGE -- --config cifar_noise --out
# /shared/run The image needs Python with JAX for TPU and sparsejax. A lost worker is restarted, and the run resumes.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=arguments.sh
source "$(dirname "${BASH_SOURCE[0]}")/arguments.sh"

cluster="" workload="" type=v5litepod-8 image="" zone="" project="" slices=1 dry=false
while [ $# -gt 0 ]; do
  case "$1" in
    --cluster) take cluster "$name_pattern" "lower-case letters, digits and hyphens" "$@"; shift 2 ;;
    --workload) take workload "$name_pattern" "lower-case letters, digits and hyphens" "$@"; shift 2 ;;
    --type) take type "$name_pattern" "a type such as v5litepod-64" "$@"; shift 2 ;;
    --image) take image '[A-Za-z0-9][-A-Za-z0-9._/:@]*' "an image such as gcr.io/PROJECT/NAME" "$@"; shift 2 ;;
    --zone) take zone "$name_pattern" "a zone such as us-west4-a" "$@"; shift 2 ;;
    --project) take project '[a-z][-a-z0-9.:]*' "the id of a project" "$@"; shift 2 ;;
    --slices) take slices "$number_pattern" "a number of slices" "$@"; shift 2 ;;
    --dry-run) dry=true; shift ;;
    -h | --help) sed -n '2,4s/^# //p' "$0"; exit 0 ;;
    --) shift; break ;;
    *) fail "'$1' is not a valid option; launch/xpk.sh --help shows a command." ;;
  esac
done
for name in cluster workload image; do
  [ -n "${!name}" ] || fail "--$name is missing; launch/xpk.sh --help shows a command."
done
[ $# -gt 0 ] || fail "arguments of sparsejax.launch are missing; such as -- --config mnist_kwinners --out /shared/run."

quote "$@"
command=(xpk workload create --cluster "$cluster" --workload "$workload" --tpu-type "$type" --num-slices "$slices"
  --docker-image "$image" --max-restarts 10
  --command "python -m sparsejax.launch --distributed $words")
[ -z "$zone" ] || command+=(--zone "$zone")
[ -z "$project" ] || command+=(--project "$project")
if $dry; then
  printf '%q ' "${command[@]}"
  echo
else
  "${command[@]}"
fi

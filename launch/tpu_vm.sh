#!/usr/bin/env bash
# Cloud TPU: create one, copy this checkout, train on all its workers, follow the log, delete it.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: launch/tpu_vm.sh COMMAND --name NAME --zone ZONE [options] [-- arguments of sparsejax.launch]

Commands:
  create   create a TPU VM; with --queued wait in the queue instead of failing if none is free
  setup    copy this checkout to every worker and install it with JAX for TPU
  run      start training on every worker, in the background; what follows -- goes to sparsejax.launch
  logs     follow the log of the first worker
  stop     ask the run to stop: it saves a checkpoint, and the same "run" resumes it
  delete   delete the TPU VM, and with --queued its place in the queue

Options:
  --name NAME         of the TPU VM
  --zone ZONE         such as us-west4-a
  --type TYPE         kind and size (default: v5litepod-8)
  --version VERSION   its software (default: v2-alpha-tpuv5-lite)
  --project PROJECT   default: gcloud's
  --queued            through a queued resource
  --spot              cheaper, but may be preempted: start "run" again to resume
  --dry-run           print the commands and do nothing

With several workers give "run" an --out on a disk that all of them have mounted (Filestore, or a bucket through Cloud
Storage FUSE): all workers write checkpoints together, and these outlive the TPU VM.
TEXT
}

# shellcheck source-path=SCRIPTDIR source=arguments.sh
source "$(dirname "${BASH_SOURCE[0]}")/arguments.sh"

command=${1:-}
case "$command" in
  create | setup | run | logs | stop | delete) shift ;;
  "" | -h | --help) usage; exit 0 ;;
  *) usage >&2; fail "the command is '$command'; expected create, setup, run, logs, stop or delete." ;;
esac

name="" zone="" type=v5litepod-8 version=v2-alpha-tpuv5-lite project="" queued=false spot=false dry=false
while [ $# -gt 0 ]; do
  case "$1" in
    --name) take name "$name_pattern" "lower-case letters, digits and hyphens" "$@"; shift 2 ;;
    --zone) take zone "$name_pattern" "a zone such as us-west4-a" "$@"; shift 2 ;;
    --type) take type "$name_pattern" "a type such as v5litepod-8" "$@"; shift 2 ;;
    --version) take version '[a-z0-9][-a-z0-9._]*' "a version such as v2-alpha-tpuv5-lite" "$@"; shift 2 ;;
    --project) take project '[a-z][-a-z0-9.:]*' "the id of a project" "$@"; shift 2 ;;
    --queued) queued=true; shift ;;
    --spot) spot=true; shift ;;
    --dry-run) dry=true; shift ;;
    --) shift; break ;;
    *) fail "'$1' is not a valid option; launch/tpu_vm.sh --help lists the options." ;;
  esac
done
[ -n "$name" ] || fail "--name is missing; it names the TPU VM."
[ -n "$zone" ] || fail "--zone is missing; such as --zone us-west4-a."
[ "$command" != run ] || [ $# -gt 0 ] || fail "run needs arguments after --, such as -- --config mnist_kwinners."

do_() {
  if $dry; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

where=(--zone "$zone")
[ -z "$project" ] || where+=(--project "$project")
on_all() { do_ gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all --command "$1"; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
case "$command" in
  create)
    if $queued; then
      extra=()
      ! $spot || extra+=(--spot)
      do_ gcloud compute tpus queued-resources create "$name" --node-id "$name" "${where[@]}" \
        --accelerator-type "$type" --runtime-version "$version" "${extra[@]}"
      echo "Waiting for the queue: gcloud compute tpus queued-resources describe $name --zone $zone"
    else
      extra=()
      ! $spot || extra+=(--spot)
      do_ gcloud compute tpus tpu-vm create "$name" "${where[@]}" \
        --accelerator-type "$type" --version "$version" "${extra[@]}"
    fi
    ;;
  setup)
    archive=$(mktemp -d)/sparsejax.tar.gz
    do_ git -C "$root" archive --format tar.gz --output "$archive" HEAD
    do_ gcloud compute tpus tpu-vm scp "$archive" "$name:sparsejax.tar.gz" "${where[@]}" --worker=all
    on_all 'mkdir -p sparsejax && tar -xzf sparsejax.tar.gz -C sparsejax && python3 -m venv ~/env && ~/env/bin/pip install -q -U "jax[tpu]" ./sparsejax'
    ;;
  run)
    quote "$@"
    # Every worker runs the same command; JAX detects its index.
    on_all "cd sparsejax && nohup ~/env/bin/python -m sparsejax.launch --distributed $words > ~/run.log 2>&1 & echo started"
    ;;
  logs)
    do_ gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=0 --command "tail -n +1 -f run.log"
    ;;
  stop)
    on_all "pkill -TERM -f 'python -m sparsejax[.]launch' || true"
    ;;
  delete)
    if $queued; then
      do_ gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet
    else
      do_ gcloud compute tpus tpu-vm delete "$name" "${where[@]}" --quiet
    fi
    ;;
esac

#!/usr/bin/env bash
# Submit a training to Slurm that goes on by itself after preemption, node failure and time limit.
#
#   tools/slurm_train.sh -p PARTITION [-N NODES] [-g GPUS_PER_NODE] [-c CPUS_PER_PROCESS] [-t TIME]
#       [--array 0-4] [--work-dir DIR] [--sbatch OPTION]... [--dry-run] CONFIG [ARGUMENT OF train.py]...
#
# With --array, %a is the number of the task in all arguments, and each task has a folder of its own:
#   tools/slurm_train.sh -p gpu --array 0-4 CONFIG --cfg-options data_root=data/fold_%a randomness.seed=%a
# -g 0 runs on CPUs, one process a node. Logs: DIR/slurm/JOB_RANK.log. To go on with a training that
# was cancelled or has failed, submit the same again. PYTHON is the interpreter (python).
set -euo pipefail

script=${SCRIPT:-$(realpath "$(dirname "$0")")/train.py}
nodes=1 gpus=1 cpus=8 time=1-00:00:00 partition='' array='' work_dir='' dry_run='' more=()
usage() { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit "$1"; }
while [ $# -gt 0 ]; do
    case $1 in
        -p|--partition) partition=$2; shift 2 ;;
        -N|--nodes) nodes=$2; shift 2 ;;
        -g|--gpus-per-node) gpus=$2; shift 2 ;;
        -c|--cpus-per-process) cpus=$2; shift 2 ;;
        -t|--time) time=$2; shift 2 ;;
        --array) array=$2; shift 2 ;;
        --work-dir) work_dir=$2; shift 2 ;;
        --sbatch) more+=("$2"); shift 2 ;;
        --dry-run) dry_run=1; shift ;;
        -h|--help) usage 0 ;;
        -*) echo "unknown option $1" >&2; usage 2 >&2 ;;
        *) break ;;
    esac
done
[ $# -gt 0 ] && [ -n "$partition" ] || usage 2 >&2
name=$(basename "$1" .py)
[ -n "$work_dir" ] || { work_dir=work_dirs/$name; [[ $script != *test.py ]] || work_dir+=/test; }
[ -z "$array" ] || [[ $work_dir == *%a* ]] || work_dir+=/%a
logs=${work_dir%%/%a*}/slurm

options=(--job-name="$name" --partition="$partition" --nodes="$nodes"
    --ntasks-per-node="$((gpus ? gpus : 1))" --cpus-per-task="$cpus" --time="$time" --requeue
    --signal=USR2@90 --open-mode=append --output="$logs/%j.log")
[ "$gpus" = 0 ] || options+=(--gres="gpu:$gpus")
[ -z "$array" ] || options+=(--array="$array")

job=$(cat <<JOB
#!/usr/bin/env bash
# The shell must outlive signals, which are for the ranks; it ends with the status of srun.
trap : TERM USR1 USR2
export SRUN_CPUS_PER_TASK=\$SLURM_CPUS_PER_TASK OMP_NUM_THREADS=\${OMP_NUM_THREADS:-1}
task=\${SLURM_ARRAY_TASK_ID:-}
arguments=($(printf '%q ' "$@"))
work_dir=$(printf '%q' "$work_dir")
work_dir=\${work_dir//%a/\$task}
options=(--launcher slurm)
case $(printf '%q' "$script") in
    *cross_validate.py|*compare.py) ;;  # see to their folders themselves, and go on
    *test.py) options+=(--work-dir "\$work_dir") ;;
    *)
        options+=(--work-dir "\$work_dir")
        [ ! -e "\$work_dir/last_checkpoint" ] || options+=(--resume) ;;
esac
srun --kill-on-bad-exit=1 --open-mode=append --output=$(printf '%q' "$logs")/%j_%t.log \\
    ${PYTHON:-python} -u $(printf '%q' "$script") "\${arguments[@]//%a/\$task}" "\${options[@]}"
JOB
)
if [ -n "$dry_run" ]; then
    printf "sbatch %s<<'JOB'\n%s\nJOB\n" "$(printf '%q ' "${options[@]}" "${more[@]}")" "$job"
else
    mkdir -p "$logs"
    sbatch "${options[@]}" "${more[@]}" <<< "$job"
fi

# What every job needs before its first command: the user's environment, Python, a container if there is one.
# Sourced by the .sbatch files. All of it is chosen by variables, which sbatch passes on:
#
#   LODESTAR_ENV        a file to source first, with "module load ..." or "source .../bin/activate"
#   PYTHON              the interpreter (default: python)
#   LODESTAR_CONTAINER  an image for pyxis; python and everything of ours then runs in it
#   LODESTAR_MOUNTS     directories it sees besides the one sbatch was called in: /data:/data,/scratch:/scratch

if [[ -n ${LODESTAR_ENV:-} ]]; then
    set +eu # module files and activation scripts are not written for a strict shell
    # shellcheck disable=SC1090  # the user's file
    source "$LODESTAR_ENV"
    set -eu
fi

PYTHON=${PYTHON:-python}
if [[ $PYTHON == */* && $PYTHON != /* ]]; then
    PYTHON=$PWD/$PYTHON # training starts in another directory
fi
export PYTHONUNBUFFERED=1 # a log must show what a process said before it died

lodestar_mounts=$PWD:$PWD${LODESTAR_MOUNTS:+,$LODESTAR_MOUNTS}

# step [OPTIONS OF srun] COMMAND...: a job step in the current directory, in the container if there is one.
step() {
    if [[ -n ${LODESTAR_CONTAINER:-} ]]; then
        set -- --container-image="$LODESTAR_CONTAINER" --container-mounts="$lodestar_mounts" \
            --container-workdir="$PWD" "$@"
    fi
    srun "$@"
}

# once COMMAND...: a short command of ours. Outside a container it runs in the batch shell itself, where the
# signals that are meant for training do not reach it.
once() {
    if [[ -n ${LODESTAR_CONTAINER:-} ]]; then
        step --nodes=1 --ntasks=1 "$@"
    else
        "$@"
    fi
}

# die MESSAGE: the command line is wrong (exit code 64, as in our Python commands).
die() {
    printf 'error: %s\n' "$1" >&2
    exit 64
}

#!/usr/bin/env bash
# One process of a job step: tells it its place in the words of torch's launchers, and becomes the command.
export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
exec "$@"

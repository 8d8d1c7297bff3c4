#!/usr/bin/env bash
# The method on handwritten digits, from nothing: no download, no GPU, a few minutes on two cores. It trains a classifier and a
# small prior on clean digits, degrades held-out ones, adapts them under mpiexec, and shows what that does for the classifier.
# Safe to run again: finished steps are skipped, a stopped one goes on.
#   scripts/quickstart.sh             OUT=elsewhere scripts/quickstart.sh             PRIOR_MINUTES=10 scripts/quickstart.sh
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-runs/quickstart}
minutes=${PRIOR_MINUTES:-2.5}
scripts/setup.sh
source .venv/bin/activate
mkdir -p "$out"

say() { printf '\n== %s (%d min %02d s) ==\n' "$1" $((SECONDS / 60)) $((SECONDS % 60)); }
made() { make_data.py "$@" --base_samples "$out/digits" --split test --save_dir "$out/degraded"; }

say "1 of 6: the digits, as a tree of PNG files"
make_data.py prepare --base_samples digits --save_dir "$out/digits"

say "2 of 6: a classifier of clean digits"
train.py -c configs/ind/digits/ResNet20/clean.yaml --save_dir "$out/saved" --epochs 10 --bs 64 --set "data.root=$out/digits"
classifier=$(ls -d "$out"/saved/clean/ind/digits_ResNet20_clean/train/*/model_best.pth | tail -n 1)

say "3 of 6: a prior of clean digits, about $minutes minutes"
mpiexec -n 2 image_train.py --base_samples "$out/digits" --cell clean/train --save_dir "$out/prior" --minutes "$minutes" \
    --num_channels 32 --channel_mult 1,2,2 --num_res_blocks 1 --attention_resolutions 4 --lr 1e-3 --warmup 100 --ema 0.995

say "4 of 6: degraded copies of held-out digits"
made degrade --type jpeg --level 1
made degrade --type blur --level 1.5
made degrade --type noise --level 100
made corrupt --corruption impulse_noise shot_noise --severity 5 --constants imagenet
made corrupt --corruption contrast --severity 3

say "5 of 6: adapted copies"
mpiexec -n 2 image_sample.py --model_path "$out/prior/ema.pt" --base_samples "$out/degraded" --dataset imagenetc \
    --corruption all --severity all --save_dir "$out/adapted" --batch_size 60 --speed one-shot --N 30 --D 4

say "6 of 6: the classifier on both"
python scripts/compare.py --classifier "$classifier" --degraded "$out/degraded" --adapted "$out/adapted" --out "$out"
say "done"

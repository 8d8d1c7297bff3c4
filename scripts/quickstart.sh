#!/usr/bin/env bash
# The method on handwritten digits, from nothing: no download, no GPU, some minutes on two cores. It trains a classifier and a small
# prior on clean digits, adapts degraded ones under mpiexec, distils one student for degraded and one for adapted digits from
# teachers of three known degradations, and shows what each step does on held-out digits with degradations of other kinds and levels.
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
degraded() { make_data.py "$@" --base_samples "$out/digits" --split test --save_dir "$out/degraded"; }
adapt() { mpiexec -n 2 image_sample.py --model_path "$out/prior/ema.pt" --batch_size 60 --speed one-shot --N 30 --D 4 "$@"; }
train() { "$1" -c "configs/$2" --save_dir "$out/saved" --bs 64 "${@:3}" --set "data.root=$out/digits" "data.adapted=$out/known_adapted"; }
best() { ls -d "$out/saved/$1"/train/*/model_best.pth | tail -n 1; }

say "1 of 8: the digits, as a tree of PNG files"
make_data.py prepare --base_samples digits --save_dir "$out/digits"

say "2 of 8: a classifier of clean digits"
train train.py ind/digits/ResNet20/clean.yaml --epochs 10

say "3 of 8: a prior of clean digits, about $minutes minutes"
mpiexec -n 2 image_train.py --base_samples "$out/digits" --cell clean/train --save_dir "$out/prior" --minutes "$minutes" \
    --num_channels 32 --channel_mult 1,2,2 --num_res_blocks 1 --attention_resolutions 4 --lr 1e-3 --warmup 100 --ema 0.995

say "4 of 8: held-out digits, degraded, and their adapted copies"
degraded degrade --type jpeg --level 1
degraded degrade --type blur --level 1.5
degraded degrade --type noise --level 100
degraded corrupt --corruption impulse_noise shot_noise --severity 5 --constants imagenet
degraded corrupt --corruption contrast --severity 3
adapt --base_samples "$out/degraded" --dataset imagenetc --corruption all --severity all --save_dir "$out/adapted"

say "5 of 8: known degradations of all digits, and their adapted copies"
make_data.py degrade --base_samples "$out/digits" --save_dir "$out/digits" --type jpeg blur noise
adapt --base_samples "$out/digits" --dataset folder --corruption jpeg blur noise --save_dir "$out/known_adapted"

say "6 of 8: teachers, one for each known degradation and view"
for known in jpeg blur noise; do
    for stage in deg adapt; do train train.py "ind/digits/ResNet20/$stage.yaml" --dt "$known" --epochs 4; done
done

say "7 of 8: two students, one for degraded and one for adapted digits"
for stage in degDistill adaptDistill; do train train_all_deg.py "deg_all/digits/ResNet20/$stage.yaml" --epochs 8; done

say "8 of 8: every classifier on the held-out digits"
python scripts/compare.py --degraded "$out/degraded" --adapted "$out/adapted" --out "$out" \
    --classifier "$(best clean/ind/digits_ResNet20_clean)" \
    --students "$(best combined_deg/deg_all/digits_ResNet20_degDistill)" "$(best combined_deg/deg_all/digits_ResNet20_adaptDistill)"
say "done"

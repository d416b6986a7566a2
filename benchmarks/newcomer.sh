#!/usr/bin/env bash
# What a newcomer waits for: from a clone to the first picture of cells and of DNA, on data and with models that ship.
#   bash benchmarks/newcomer.sh [REPOSITORY]
# Prints the seconds of each step, and since the clone. Installing is mostly downloading PyTorch.
set -euo pipefail
repository=$(realpath "${1:-$(dirname "$0")/..}")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export BMFM_CACHE="$folder/cache"
unset PYTHONPATH
begin=$SECONDS
step() {
  local from=$SECONDS name=$1
  shift
  "$@" > log.txt 2>&1 || { tail -20 log.txt; exit 1; }
  echo "$name: $((SECONDS - from)) s, $((SECONDS - begin)) s since the clone"
}
map() {
  python - << 'PYTHON'
import anndata
import matplotlib
import scanpy as sc

matplotlib.use("Agg")
adata = anndata.read_h5ad("annotated.h5ad")
sc.pp.neighbors(adata, use_rep="X_bmfm")
sc.tl.umap(adata)
sc.pl.umap(adata, color="cell_type", show=False).figure.savefig("cells.png")
PYTHON
}
step "clone" git clone -q "$repository" bmfm
step "virtual environment" python3 -m venv venv
source venv/bin/activate
step "pip install" pip install -q -e 'bmfm[interpret]'
echo "cells:"
step "bmfm predict" bmfm predict checkpoint=bmfm-rna-mini 'data.path=${asset:rna/pbmc3k.h5ad}' output=annotated.h5ad
step "UMAP by cell type" map
ls -l cells.png
echo "DNA:"
step "bmfm mutagenesis" bmfm mutagenesis checkpoint=bmfm-dna-mini 'fasta=${asset:genome/chr20_slice.fa.gz}' \
  'regions=[chr20_slice:1-200]' 'output=[map.png,map.tsv]'
ls -l map.png

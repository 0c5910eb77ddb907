# Two commands: `make demo` trains and judges two rectified flows; `make test` checks everything.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# The kernel of .venv comes before any `python3` kernel that the user has elsewhere.
export JUPYTER_PATH := $(CURDIR)/.venv/share/jupyter
# Modules are compiled once, not by every one of a hundred processes.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo table records models architectures rehearsal lease lease-rehearsal test faults peers bench lab run readme docs clean
help:
	@echo "make demo             train a 1- and a 2-rectified flow on handwritten digits, into runs/"
	@echo "make table            train every system on digits, two at a time (about an hour), into runs/table/; give it again to continue"
	@echo "make records          bring that table's records into nbs/records/table, and the page nbs/results.ipynb up to them"
	@echo "                      (both with DATA=mnist for the systems on MNIST, with SEEDS=5 for five seeds)"
	@echo "make models           train the conditional models and those of the chapter on transfer, and put them into the package"
	@echo "make architectures    three systems with two networks at 8 x 8 and 32 x 32, with one at 64 x 64 (more than three hours), and their page nbs/architectures.ipynb"
	@echo "make test             run every chapter and all tests"
	@echo "make rehearsal        the queue of GPU runs at toy size on a CPU: data in parts, jobs, a run that is cut short and travels, the table"
	@echo "make lease            ten minutes of a GPU: CIFAR-10 from data to FID, into runs/lease (see CONTRIBUTING.md)"
	@echo "make lease-rehearsal  the same at toy size on a CPU, all stages, under the versions of torch and accelerate in LEASE"
	@echo "make faults           kill trainings and drawings 200 times each at random moments, fill disks, damage files; KILLS=50 kills less often"
	@echo "make peers            install other people's codes beside ours, compare, and show the table of agreement"
	@echo "make bench            run the benchmarks of tests/bench"
	@echo "make lab              open the book in JupyterLab"
	@echo "make run NB=01_sampling  export, execute and clean one chapter, in place"
	@echo "make readme           make README.md from nbs/index.ipynb"
	@echo "make docs             build the site with Quarto, or check its pages where Quarto is missing"
	@echo "make clean            remove what these commands made, except runs/"

# The stamp is written last and holds the folder's path and the requirements' checksum: an interrupted installation is
# done again, so is one that was moved or copied here, and so is one for other requirements.
WANT := $(CURDIR) $(shell cksum < pyproject.toml)
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(WANT))
.PHONY: $(STAMP)
endif
$(STAMP):
	@command -v "$(PYTHON)" >/dev/null || { echo "PYTHON: '$(PYTHON)' is not a command; give Python 3.10 or later, as in make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "PYTHON: '$(PYTHON)' is older than Python 3.10; give a later one, as in make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "PYTHON: '$(PYTHON)' lacks the venv module; install it (on Debian and Ubuntu, apt install python3-venv)" >&2; exit 1; }
	@echo "Installing into .venv (about 6 GB, a few minutes)"
	@"$(PYTHON)" -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.5,<1"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --editable ".[dev]" || $(BIN)/python -m pip install --quiet --editable ".[dev]"
	@printf '%s' "$(WANT)" > $@

# What a notebook prints, and its progress bars, reach the terminal.
SHOWN := --no-progress-bar --stdout-file - --stderr-file -
demo: $(STAMP)
	@mkdir -p runs
	PYTHONWARNINGS="ignore:IProgress not found" $(BIN)/papermill $(SHOWN) nbs/train_rf.ipynb runs/train_rf.ipynb -p rounds 2
	@$(BIN)/python -c 'from odeflow.records import *; print(table([r for r in read_results("runs/train_rf") if r["solver"] == "rk45" or r["nfe"] == 1]).markdown())'

# A line of the results table: the experiment and its parameters. The longest come first, so that no core waits for them.
plain := -p rounds 1 -p distill False
mean := -p target mean
single := $(plain) -p target single -p curve False
rf := train_rf $(mean)
pfgm := train_pfgm
vp := train_sde -p sde vp $(mean) -p rounds 1
subvp := train_sde -p sde subvp $(mean) -p rounds 1
ve := train_sde -p sde ve $(mean) $(plain) -p steps 0
pfgmpp-1 := train_pfgm -p field False $(mean) $(plain)
pfgmpp-128 := train_pfgm -p D 128 $(mean) $(plain)
pfgmpp-2048 := train_pfgm -p D 2048 $(mean) $(plain)
pfgmpp-inf := train_pfgm -p D inf $(mean) $(plain)
# The same with single images for a target.
rf-single := train_rf $(single)
vp-single := train_sde -p sde vp $(single) -p steps 0
subvp-single := train_sde -p sde subvp $(single) -p steps 0
ve-single := train_sde -p sde ve $(single) -p steps 0
pfgmpp-1-single := train_pfgm -p field False $(single)
pfgmpp-128-single := train_pfgm -p D 128 $(single)
pfgmpp-2048-single := train_pfgm -p D 2048 $(single)
pfgmpp-inf-single := train_pfgm -p D inf $(single)
SYSTEMS := vp subvp ve pfgmpp-1 pfgmpp-128 pfgmpp-2048 pfgmpp-inf
TABLE := rf pfgm $(SYSTEMS) rf-single $(SYSTEMS:%=%-single)
# Seeds 0 to SEEDS - 1. The first two alone have what takes long: the stochastic run of 2,000 steps, on 500 samples, the
# second reflow of the rectified flow, the reflow of PFGM and the student of sub-VP.
SEEDS := 1
LONG := 0 1
seeds := $(shell seq 0 $$(($(SEEDS) - 1)))
long = $(if $(filter $(LONG),$(seed)),$(1),$(2))
seeded-rf = -p rounds $(call long,3,2)
seeded-pfgm = -p rounds $(call long,2,1)
seeded-vp = $(call long,-p steps 2000 -p long_samples 500,-p steps 100)
seeded-subvp = $(seeded-vp) $(call long,,-p distill False)
# The lines of the page on architectures: a U-Net and a transformer, taught as in the first edition.
eights := $(plain) -p budget "88000 images"
rf-8 := train_rf $(eights) -p target single -p time uniform
vp-8 := train_sde -p steps 20 $(eights) -p target single
pfgm-8 := train_pfgm $(eights)
rf-8-dit := $(rf-8) -p preset digits-dit
vp-8-dit := $(vp-8) -p preset digits-dit
pfgm-8-dit := $(pfgm-8) -p preset digits-dit
# And both networks on larger pictures: the threes of MNIST, scaled to 32 x 32.
threes := $(plain) -p dataset mnist/3 -p resize 32 -p samples 500 -p budget "48000 images"
pfgm-32 := train_pfgm $(threes) -p preset small
vp-32 := train_sde -p steps 20 $(threes) -p preset small
rf-32 := train_rf $(threes) -p preset small
pfgm-32-dit := train_pfgm $(threes) -p preset small-dit
vp-32-dit := train_sde -p steps 20 $(threes) -p preset small-dit
rf-32-dit := train_rf $(threes) -p preset small-dit
# The U-Net on larger ones still.
threes-64 := $(plain) -p dataset mnist/3 -p resize 64 -p samples 200 -p budget "32000 images" -p preset small-64
pfgm-64 := train_pfgm $(threes-64)
vp-64 := train_sde -p steps 20 $(threes-64)
rf-64 := train_rf $(threes-64)
ARCHITECTURES := pfgm-64 vp-64 rf-64 pfgm-32 vp-32 rf-32 pfgm-32-dit vp-32-dit rf-32-dit vp-8-dit pfgm-8-dit rf-8-dit vp-8 pfgm-8 rf-8
JOBS := 2
# `make table DATA=mnist` trains the systems on MNIST, and `make records DATA=mnist` takes its records.
DATA := table
OUT := runs/$(DATA)
EXTRA :=
ifeq ($(DATA),mnist)
EXTRA := -p dataset mnist -p preset mnist -p samples 1000
TABLE := rf pfgm $(SYSTEMS)
LONG :=
endif
$(if $(word 2,$(OUT)),$(error OUT: '$(OUT)' has a space; give a folder without))

# An executed notebook appears under its name when it is complete; until then its run continues where it was. A name
# that ends in a number, as rf-3, is a line of the table with that seed.
seed = $(lastword $(subst -, ,$*))
line = $(if $($*),$*,$(patsubst %-$(seed),%,$*))
$(OUT)/%.ipynb:
	@mkdir -p $(OUT)
	OMP_NUM_THREADS=1 $(BIN)/papermill --no-progress-bar nbs/$(word 1,$($(line))).ipynb $(OUT)/.$*.ipynb -p out $(OUT)/$* $(wordlist 2,99,$($(line))) $(if $($*),,-p seed $(seed) $(seeded-$(line))) $(EXTRA)
	@mv $(OUT)/.$*.ipynb $@

RUNS := $(foreach s,$(seeds),$(TABLE:%=%-$(s)))
table: $(STAMP)
	@$(MAKE) --no-print-directory -j$(JOBS) $(RUNS:%=$(OUT)/%.ipynb)
	$(BIN)/papermill --no-progress-bar nbs/results.ipynb $(OUT)/results.ipynb -p folder $(OUT) -p write True -p verdict False

# Further models that come with the package: told their class, and carrying threes to eights.
rf-classes := train_rf $(plain) -p classes True
vp-classes := train_sde -p steps 20 $(plain) -p classes True
transfer := train_transfer -p distill False
transfer-feature := train_transfer $(plain) -p feature True
MODELS := transfer transfer-feature vp-classes rf-classes
models: $(STAMP)
	@$(MAKE) --no-print-directory -j$(JOBS) OUT=runs/models $(MODELS:%=runs/models/%.ipynb)
	$(BIN)/python tools/ship.py runs/models

architectures: $(STAMP)
	@$(MAKE) --no-print-directory -j$(JOBS) OUT=runs/architectures $(ARCHITECTURES:%=runs/architectures/%.ipynb)
	@for run in $(ARCHITECTURES); do mkdir -p nbs/records/architectures/$$run && cp runs/architectures/$$run/result.json nbs/records/architectures/$$run/ || exit 1; done
	$(MAKE) run NB=architectures

# `make records TABLE="rf" SEEDS=5` takes one line; a line that is not complete is refused, and nothing is half copied.
# The pictures of the first seed come along.
records: $(STAMP)
	@for run in $(RUNS); do test -f $(OUT)/$$run.ipynb || { echo "records: the run $$run in $(OUT) is not complete; give make table again" >&2; exit 1; }; done
	@for run in $(RUNS); do to=nbs/records/$(DATA)/$$run; rm -rf $$to && mkdir -p $$to && cp $(OUT)/$$run/result.json $$to/ && case $$run in *-0) cp -R $(OUT)/$$run/grids $$to/;; esac || exit 1; done
	$(MAKE) run NB=results
ifeq ($(DATA),table)
	$(BIN)/python tools/ship.py $(OUT)
	$(MAKE) run NB=44_pipeline
endif

# Chapters and tests in one pool, the longest first (tests/longest.txt).
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests --ignore=tests/bench -n 2 --durations=20

KILLS ?= 200
rehearsal: $(STAMP)
	@rm -rf runs/rehearsal
	$(BIN)/python tools/rehearse.py runs/rehearsal

# What stands after `make lease RUN=` is an experiment with its parameters, as for `odeflow train`.
RUN :=
lease: $(STAMP)
	$(BIN)/python tools/lease.py all $(RUN)

# Another machine has other versions: the rehearsal takes these where they can be installed, and else those of .venv.
LEASE := torch==2.11.0 torchvision==0.26.0 accelerate==1.15.0
lease-rehearsal: $(STAMP)
	@test "$$(cat .venv-lease/.versions 2>/dev/null)" = "$(LEASE)" || { $(BIN)/python -m venv --clear .venv-lease && $(BIN)/uv pip install --quiet --python .venv-lease/bin/python $(LEASE) --editable . pytest && echo "$(LEASE)" > .venv-lease/.versions; } || { rm -rf .venv-lease; echo "lease-rehearsal: $(LEASE) cannot be installed here; with the versions of .venv instead"; }
	OMP_NUM_THREADS=1 $$(test -x .venv-lease/bin/python && echo .venv-lease || echo .venv)/bin/python tests/test_lease.py runs/lease-rehearsal

faults: $(STAMP)
	KILLS=$(KILLS) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -s tests/test_faults.py tests/test_pickle.py

# With the optional extra; without it `make test` compares with the peers that are installed anyway, and skips the others.
PEERS := diffusers flow_matching ot prdc torchcfm
peers: $(STAMP)
	@$(BIN)/python -c 'from importlib.util import find_spec as f; exit(not all(map(f, "$(PEERS)".split())))' || $(BIN)/uv pip install --quiet --python $(BIN)/python --editable ".[dev,peers]" || $(BIN)/python -m pip install --quiet --editable ".[dev,peers]"
	OMP_NUM_THREADS=1 $(BIN)/python tests/test_peers.py

bench: $(STAMP)
	ODEFLOW_BENCH=$${ODEFLOW_BENCH:-nbs/records/speed} $(BIN)/python -m pytest -q -s tests/bench

lab: $(STAMP)
	$(BIN)/jupyter lab nbs

run: $(STAMP)
	$(BIN)/nbdev_export
	cd nbs && PYTHONWARNINGS=ignore ../$(BIN)/jupyter nbconvert --log-level WARN --to notebook --execute --inplace "$(NB).ipynb"
	$(BIN)/nbdev_clean --fname "nbs/$(NB).ipynb"

readme: $(STAMP)
	$(BIN)/python tools/website.py readme

docs: $(STAMP)
	@if command -v quarto >/dev/null; then $(BIN)/nbdev_docs; else $(BIN)/python tools/website.py check; fi

clean:
	rm -rf .venv .venv-lease _docs _proc build dist *.egg-info .pytest_cache .benchmarks .quarto
	find . -name __pycache__ -prune -exec rm -rf {} + -o -name .ipynb_checkpoints -prune -exec rm -rf {} +

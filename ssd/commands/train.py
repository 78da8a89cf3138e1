"""`ssd train`: a detector from an experiment spec."""

import argparse
from pathlib import Path

from ssd.commands.flags import add_key
from ssd.console import say, warn
from ssd.errors import InputError, raise_all

# The names in ssd.models.pretrained.CONVENTIONS, which is too slow to import for a help text.
INPUTS = ("caffe", "torch", "tf", "darknet", "raw")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-e", "--experiment_spec_file", required=True, metavar="FILE", help="experiment spec")
    parser.add_argument("-r", "--results_dir", required=True, metavar="DIR", help="folder for weights, logs, curves")
    parser.add_argument(
        "-m",
        "--resume_model_weights",
        metavar="FILE",
        help="model to begin with: initial weights (.keras, TAO's .hdf5, Keras' .h5, .safetensors, Darknet's .weights, "
        "or the word imagenet), or with --initial_epoch N the checkpoint of epoch N - 1",
    )
    parser.add_argument(
        "--weights_input",
        choices=INPUTS,
        help="input of the network of the weights (default: what is usual for such a file): caffe: BGR minus mean; "
        "torch: RGB minus mean over deviation; tf: RGB from -1 to 1; darknet: RGB from 0 to 1; raw: RGB from 0 to 255",
    )
    parser.add_argument(
        "--initial_epoch", type=int, default=1, metavar="N", help="first epoch to train, from 1 (default: 1)"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the results folder")
    parser.add_argument("--use_amp", action="store_true", help="multiply in bfloat16 where the device can")
    parser.add_argument(
        "--deterministic", action="store_true", help="the same run gives the same weights, bit for bit; slower"
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="build everything, report on model, data and anchors, train one step"
    )
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="number of GPUs (default: 1)")
    parser.add_argument("--gpu_index", type=int, nargs="+", metavar="I", help="which GPU")
    parser.add_argument("--arch", choices=("ssd", "dssd"), help="check that the spec has this kind of network")
    add_key(parser)
    parser.add_argument("--use_multiprocessing", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> None:
    _check_flags(args)
    from ssd.spec import load_experiment

    spec = load_experiment(args.experiment_spec_file, "train")
    _check_spec(args, spec)

    from ssd.training.trainer import Request, train

    request = Request(
        resume=args.resume,
        weights=args.resume_model_weights,
        weights_input=args.weights_input,
        initial_epoch=args.initial_epoch,
        use_amp=args.use_amp,
        deterministic=args.deterministic,
        key=args.key,
        gpu_index=args.gpu_index,
    )
    if args.dry_run:
        from ssd.training.dry_run import dry_run

        say(f"reports: {dry_run(spec, args.results_dir, request)}")
        return
    folder = train(spec, args.results_dir, request)
    say(f"results: {folder}")


def _check_flags(args: argparse.Namespace) -> None:
    problems = []
    if args.gpus < 1:
        problems.append(
            InputError(f"--gpus is {args.gpus}; at least 1 is needed", hint="a machine without GPU uses its CPU")
        )
    elif args.gpus > 1 or len(set(args.gpu_index or ())) > 1:
        asked = f"--gpus {args.gpus}" if args.gpus > 1 else f"--gpu_index {' '.join(map(str, args.gpu_index))}"
        problems.append(
            InputError(f"{asked}: training on more than one GPU is not available in this version", hint="use one GPU")
        )
    if min(args.gpu_index or [0]) < 0:
        problems.append(InputError(f"--gpu_index {min(args.gpu_index)}: indices count from 0"))
    if args.initial_epoch < 1:
        problems.append(InputError(f"--initial_epoch is {args.initial_epoch}; epochs count from 1"))
    if args.resume and (args.resume_model_weights or args.initial_epoch > 1):
        given = "-m/--resume_model_weights" if args.resume_model_weights else "--initial_epoch"
        problems.append(
            InputError(
                f"--resume finds the checkpoint in the results folder by itself; {given} names another",
                hint="leave out one of the two",
            )
        )
    # Looked at before anything slow is imported; the run looks again, and closer.
    weights = args.resume_model_weights
    if weights and weights != "imagenet" and not Path(weights).expanduser().exists():
        problems.append(InputError("no such model file", where=f"-m {weights}"))
    if Path(args.results_dir).expanduser().is_file():
        problems.append(InputError(f"-r/--results_dir {args.results_dir}: this is a file, a folder is needed"))
    raise_all(problems)
    if args.use_multiprocessing:
        warn("--use_multiprocessing has no effect: images are loaded by threads")


def _check_spec(args: argparse.Namespace, spec) -> None:
    kind = "dssd" if spec.network.dssd else "ssd"
    if args.arch and args.arch != kind:
        raise InputError(f"--arch {args.arch}: the spec has {kind}_config", where=args.experiment_spec_file)
    training = spec.training
    named = args.resume_model_weights or training.pretrain_model_path or training.pruned_model_path
    if args.weights_input and not (named or training.resume_model_path or args.resume):
        raise InputError(f"--weights_input {args.weights_input} needs weights: -m FILE")

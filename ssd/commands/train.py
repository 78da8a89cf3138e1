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
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="number of GPUs of this process (default: 1)")
    parser.add_argument("--gpu_index", type=int, nargs="+", metavar="I", help="which GPUs (default: the first ones)")
    parser.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="several processes train together (KERAS_BACKEND=jax): address of process 0, the same for all; or the "
        "word auto under SLURM or Open MPI",
    )
    parser.add_argument("--num_processes", type=int, metavar="N", help="how many processes train together")
    parser.add_argument("--process_id", type=int, metavar="I", help="which of them this is, from 0")
    parser.add_argument(
        "--cache",
        metavar="WHERE",
        help="keep decoded images: memory, disk (in DIR/cache), or a folder that several runs share",
    )
    parser.add_argument(
        "--auto_batch", action="store_true", help="find the largest batch that memory holds, in place of the spec's"
    )
    parser.add_argument("--profile", type=int, metavar="N", help="trace N training steps into DIR/profile")
    parser.add_argument("--arch", choices=("ssd", "dssd"), help="check that the spec has this kind of network")
    add_key(parser)
    parser.add_argument("--use_multiprocessing", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> None:
    _check_flags(args)
    from ssd.spec import load_experiment

    spec = load_experiment(args.experiment_spec_file, "train")
    _check_spec(args, spec)

    from ssd.training.distribution import Cluster
    from ssd.training.trainer import Request, train

    request = Request(
        resume=args.resume,
        weights=args.resume_model_weights,
        weights_input=args.weights_input,
        initial_epoch=args.initial_epoch,
        use_amp=args.use_amp,
        deterministic=args.deterministic,
        key=args.key,
        cache=args.cache,
        auto_batch=args.auto_batch,
        profile=args.profile or 0,
        gpus=args.gpus,
        gpu_index=args.gpu_index,
        cluster=Cluster(args.coordinator, args.num_processes, args.process_id) if args.coordinator else None,
    )
    if args.dry_run:
        from ssd.training.dry_run import dry_run

        say(f"reports: {dry_run(spec, args.results_dir, request)}")
        return
    folder = train(spec, args.results_dir, request)
    say(f"results: {folder}")


def _check_flags(args: argparse.Namespace) -> None:
    problems = _device_problems(args)
    if args.dry_run:
        given = [flag for flag in ("auto_batch", "cache", "profile") if getattr(args, flag) not in (None, False)]
        problems += [InputError(f"--dry_run trains one step as the spec says, without --{flag}") for flag in given]
    if args.cache == "memory" and args.coordinator:
        problems.append(
            InputError("--cache memory: each process would hold all images", hint="--cache disk, which they share")
        )
    if args.auto_batch and (args.resume or args.initial_epoch > 1):
        problems.append(
            InputError(
                "--auto_batch: a run that goes on keeps its batch size",
                hint="leave out --auto_batch; resolved_spec.txt in the results folder of the run has the size",
            )
        )
    if args.profile is not None and args.profile < 1:
        problems.append(InputError(f"--profile is {args.profile}; a number of steps is needed, at least 1"))
    if args.cache == "":
        problems.append(InputError("--cache is empty; memory, disk or a folder is needed"))
    if args.auto_batch and args.coordinator:
        problems.append(
            InputError("--auto_batch looks for one process", hint="find the batch with one, write it into the spec")
        )
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


def _device_problems(args: argparse.Namespace) -> list[InputError]:
    problems = []
    indices = args.gpu_index or []
    if args.gpus < 1:
        problems.append(
            InputError(f"--gpus is {args.gpus}; at least 1 is needed", hint="a machine without GPU uses its CPU")
        )
    elif indices and args.gpus not in (1, len(indices)):
        problems.append(InputError(f"--gpus {args.gpus}, but --gpu_index names {len(indices)}"))
    if min(indices, default=0) < 0:
        problems.append(InputError(f"--gpu_index {min(indices)}: indices count from 0"))
    if len(set(indices)) < len(indices):
        problems.append(InputError(f"--gpu_index {' '.join(map(str, indices))}: the same GPU twice"))
    place = [flag for flag in ("num_processes", "process_id") if getattr(args, flag) is not None]
    if args.coordinator is None:
        hint = "the GPUs of one machine need one process: --gpus N"
        problems += [InputError(f"--{flag} needs --coordinator HOST:PORT", hint=hint) for flag in place]
    elif args.coordinator == "auto":
        if args.gpus > 1 or indices:
            problems.append(
                InputError("--coordinator auto gives each process one GPU", hint="start one process for each GPU")
            )
        problems += [InputError(f"--coordinator auto finds --{flag} by itself", hint="leave it out") for flag in place]
    else:
        problems += _cluster_problems(args)
    if args.coordinator and args.dry_run:
        problems.append(InputError("--dry_run trains one step in one process", hint="leave out --coordinator"))
    return problems


def _cluster_problems(args: argparse.Namespace) -> list[InputError]:
    host, _, port = args.coordinator.rpartition(":")
    problems = []
    if not (host and port.isdecimal() and 0 < int(port) < 65536):
        problems.append(InputError(f"--coordinator {args.coordinator}: HOST:PORT is needed, or the word auto"))
    if args.num_processes is None or args.process_id is None:
        problems.append(InputError("--coordinator HOST:PORT needs --num_processes and --process_id too"))
    elif args.num_processes < 1:
        problems.append(InputError(f"--num_processes is {args.num_processes}; at least 1 is needed"))
    elif not 0 <= args.process_id < args.num_processes:
        problems.append(
            InputError(
                f"--process_id {args.process_id} of --num_processes {args.num_processes}: "
                "ids count from 0 to the number less one"
            )
        )
    return problems


def _check_spec(args: argparse.Namespace, spec) -> None:
    kind = "dssd" if spec.network.dssd else "ssd"
    if args.arch and args.arch != kind:
        raise InputError(f"--arch {args.arch}: the spec has {kind}_config", where=args.experiment_spec_file)
    training = spec.training
    named = args.resume_model_weights or training.pretrain_model_path or training.pruned_model_path
    if args.weights_input and not (named or training.resume_model_path or args.resume):
        raise InputError(f"--weights_input {args.weights_input} needs weights: -m FILE")

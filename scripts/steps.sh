# shellcheck shell=sh
# For scripts that source it: steps that are done are not repeated.

# step NAME COMMAND...: shows the command, runs it, notes in demo/.NAME how many seconds it took.
step() {
    step_name=$1 # not "name": sh has no local variables
    shift
    if [ -e "demo/.$step_name" ]; then
        printf '\n%s: done before (rm -r demo to start anew)\n' "$step_name"
        return
    fi
    printf '\n$ %s\n' "$*"
    start=$(date +%s)
    "$@" || return # also where the caller asks for the outcome, which switches `set -e` off
    echo $(($(date +%s) - start)) > "demo/.$step_name"
}

# resume FOLDER: --resume where a training in FOLDER was interrupted.
resume() {
    ls "$1"/weights/*.keras > /dev/null 2>&1 && echo --resume || true
}

demo_data() {
    step data python scripts/make_demo_data.py --output demo/data
    step convert ssd dataset_convert -d specs/demo_convert.txt -o demo/tfrecords/digits -r demo/convert
}

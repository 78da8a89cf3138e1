# shellcheck shell=sh
# For scripts that source it: steps that are done are not repeated.

# step NAME COMMAND...: shows the command, runs it, notes in demo/.NAME how many seconds it took.
step() {
    name=$1
    shift
    if [ -e "demo/.$name" ]; then
        printf '\n%s: done before (rm -r demo to start anew)\n' "$name"
        return
    fi
    printf '\n$ %s\n' "$*"
    start=$(date +%s)
    "$@"
    echo $(($(date +%s) - start)) > "demo/.$name"
}

# resume FOLDER: --resume where a training in FOLDER was interrupted.
resume() {
    ls "$1"/weights/*.keras > /dev/null 2>&1 && echo --resume || true
}

demo_data() {
    step data python scripts/make_demo_data.py --output demo/data
    step convert ssd dataset_convert -d specs/demo_convert.txt -o demo/tfrecords/digits -r demo/convert
}

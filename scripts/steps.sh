# shellcheck shell=sh
# For scripts that source it: steps that are done are not repeated.

# fingerprint COMMAND...: the command and the checksums of the files among its words, on one line.
fingerprint() {
    {
        echo "$*"
        for fingerprint_word; do # sh has no local variables
            [ ! -f "$fingerprint_word" ] || cksum < "$fingerprint_word"
        done
    } | tr '\n' ' '
}

# step MARK COMMAND...: shows the command, runs it, notes in the file MARK how many seconds it took and what it was. It is
# done where MARK says so of the same command on the same files.
step() {
    step_mark=$1
    shift
    if [ "$(sed -n 2p "$step_mark" 2> /dev/null)" = "$(fingerprint "$@")" ]; then
        printf '\n%s: done before (remove it to repeat the step)\n' "$step_mark"
        return
    fi
    printf '\n$ %s\n' "$*"
    step_start=$(date +%s)
    "$@" || return # also where the caller asks for the outcome, which switches `set -e` off
    mkdir -p "$(dirname "$step_mark")"
    printf '%s\n%s\n' $(($(date +%s) - step_start)) "$(fingerprint "$@")" > "$step_mark"
}

# resumable FOLDER COMMAND...: a training in FOLDER; where the same command on the same files was interrupted it goes on,
# with --resume in place of -m FILE. Where there is another's, the command itself says so.
resumable() {
    resumable_folder=$1
    shift
    if ! ls "$resumable_folder"/weights/*.keras > /dev/null 2>&1; then
        mkdir -p "$resumable_folder"
        fingerprint "$@" > "$resumable_folder/.command"
    elif [ "$(cat "$resumable_folder/.command" 2> /dev/null)" = "$(fingerprint "$@")" ]; then
        resumable_before=
        for resumable_word; do # one turn of the words, without the two
            shift
            [ "$resumable_word" = -m ] || [ "$resumable_before" = -m ] || set -- "$@" "$resumable_word"
            resumable_before=$resumable_word
        done
        set -- "$@" --resume
    fi
    "$@"
}

demo_data() {
    step demo/.data python scripts/make_demo_data.py --output demo/data
    step demo/.convert ssd dataset_convert -d specs/demo_convert.txt -o demo/tfrecords/digits -r demo/convert
}

demo_train() {
    step demo/.train resumable demo/train ssd train -e specs/demo_train.txt -r demo/train
}

# Runs PostgreSQL, and stops it when the last aihub that uses it has gone, however it went.
#
# Arguments: the directory to remove at the end or "", then the command line of postgres.
# Input:  a FIFO that every aihub holds open for writing: it ends when the last one has closed it or has died.
# Output: the locked file `server`. Only PostgreSQL and its children keep it, so the lock is free when they are gone.
remove=$1
shift
trap '' HUP INT TERM
exec 3<&0 </dev/null
"$@" 3<&- &
postmaster=$!
exec >/dev/null 2>&1
(
    while read -r _ <&3; do :; done
    exec 3<&-
    # Fast shutdown: open transactions are rolled back, and everything is on disk. More than once, because PostgreSQL
    # ignores it for the first milliseconds of its life, in which an aihub can be killed as well.
    seconds=0
    while [ "$seconds" -lt 20 ]; do
        kill -INT "$postmaster"
        sleep 1
        seconds=$((seconds + 1))
    done
    kill -QUIT "$postmaster" # Immediate shutdown: the next start recovers from the log.
) &
watcher=$!
exec 3<&-
wait "$postmaster"
status=$?
kill -KILL "$watcher"
[ -z "$remove" ] || rm -rf -- "$remove"
exit "$status"

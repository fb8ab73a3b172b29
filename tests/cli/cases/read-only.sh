# A folder that must not be written.
[ "$(id -u)" -ne 0 ] || command -v setpriv > /dev/null || skip "root writes everywhere, and there is no setpriv"
make_shards data
need train --profile small.profile --out train.ckpt
mkdir locked
chmod a-w locked
# Permissions do not bind root: then another user tries.
as_user() { if [ "$(id -u)" -eq 0 ]; then setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; else "$@"; fi; }
chmod a+rx .. .
as_user test -x "$(command -v ema-finalize)" || skip "another user cannot reach the programs"
try_last as_user ema-finalize train.ckpt locked/weights.ckpt
try_last as_user train --profile small.profile --out locked/train.ckpt
try ls -A locked

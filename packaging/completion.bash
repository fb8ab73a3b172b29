# Completion of fairway's programs in bash: options and their choices as --help lists them, names of profiles, files.
_fairway() {
  local program=$1 word=$2 previous=$3 options choices profiles
  COMPREPLY=()
  options=$("$program" --help 2> /dev/null) || return
  if [ "$previous" = --profile ]; then
    profiles=$(dirname -- "$(type -P -- "$program")")/..
    profiles=$(cd -- "$profiles" 2> /dev/null && ls share/fairway/pipelines ../pipelines 2> /dev/null | sed -n 's/\.profile$//p')
    mapfile -t COMPREPLY < <(compgen -W "$profiles" -- "$word"; compgen -f -- "$word")
  elif [[ $previous == --* ]] && choices=$(sed -n "s/^ *$previous .*(\([a-z0-9_]*|[a-z0-9_|]*\)).*/\1/p" <<< "$options") && [ -n "$choices" ]; then
    mapfile -t COMPREPLY < <(compgen -W "${choices//|/ }" -- "$word")
  elif [[ $word == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$(grep -oE '^ +--[a-z0-9-]+' <<< "$options")" -- "$word")
  else
    mapfile -t COMPREPLY < <(compgen -f -- "$word")
  fi
}
complete -o filenames -F _fairway tokenize-shard train ema-finalize gptq-lite pack-zstd eval-sliding make-submission compare-runs audit-record ckpt-inspect

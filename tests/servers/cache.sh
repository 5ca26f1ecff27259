# What the get- scripts have in common: where a server is kept, and how it gets there in one step,
# so that nobody ever runs half of it. A script sets nothing, sources this, calls `kept NAME`, and
# where that returns makes the server at "$scratch/NAME" and calls `keep`.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

give_up() { echo "${0##*/}: $*" >&2; exit 1; }

# Prints where NAME is kept, and ends, if it was made from the sources that lie here now.
kept() {
  name=$1
  [ -n "${XDG_CACHE_HOME:-${HOME:-}}" ] || give_up "neither HOME nor XDG_CACHE_HOME says where to keep it"
  local cache="${XDG_CACHE_HOME:-$HOME/.cache}/callboard"
  local version
  version=$(find "$name" -type f -print0 | sort -z | xargs -0 cat | sha256sum | cut -c 1-16)
  place="$cache/$name-$version"
  if [ -e "$place" ]; then echo "$place"; exit; fi
  mkdir -p "$cache"
  scratch=$(mktemp -d "$cache/$name.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
}

# Builds the Go program in the folder NAME.
go_build() {
  (cd "$name" && go build -trimpath -buildvcs=false -ldflags='-s -w' -o "$scratch/$name" .) >&2
}

keep() {
  # Another run may have been faster: what it made is as good.
  mv -T "$scratch/$name" "$place" 2>/dev/null || [ -e "$place" ] || give_up "cannot keep it at $place"
  echo "$place"
}

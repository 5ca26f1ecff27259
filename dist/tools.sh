# What the scripts of dist/ have in common: where a tool is kept that the machine lacks, and how what is missing
# is told. Nothing needs root.
# shellcheck shell=bash

cache="${XDG_CACHE_HOME:-${HOME:?}/.cache}/callboard"
mkdir -p "$cache"

missing=()
# Notes what cannot be had, for the end.
lack() { missing+=("$*"); echo "${0##*/}: left out: $*" >&2; }

# Makes the folder NAME of the cache once, by a command that gets a folder of its own: `once NAME COMMAND…`. Sets
# `place`.
once() {
  place="$cache/$1"
  [ ! -e "$place" ] || return 0
  local scratch
  scratch=$(mktemp -d "$cache/$1.XXXXXX")
  if "${@:2}" "$scratch" >&2; then
    # Another run may have been faster: what it made is as good.
    mv -T "$scratch" "$place" 2>/dev/null || rm -rf "$scratch"
  else
    rm -rf "$scratch"
    return 1
  fi
}

# Unpacks Debian packages into a folder: `unpack PACKAGE… FOLDER`.
unpack() {
  local folder=${*: -1}
  command -v apt-get >/dev/null || return 1
  (cd "$folder" && { apt-get download "${@:1:$#-1}" || { apt-get update && apt-get download "${@:1:$#-1}"; }; }) &&
    for package in "$folder"/*.deb; do
      dpkg -x "$package" "$folder" && rm "$package" || return 1
    done
}

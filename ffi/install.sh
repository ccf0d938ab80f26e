#!/bin/sh
# Builds and installs libspillring for C and C++: headers, shared and static library, pkg-config file, CMake package,
# man pages.
#
#     ffi/install.sh                                 into /usr/local
#     PREFIX=/usr DESTDIR=/tmp/package ffi/install.sh
#
# PREFIX (default /usr/local), LIBDIR (default PREFIX/lib), DESTDIR (default none), CC (default cc). Needs cargo, a C
# compiler and binutils. FEATURES: for the library's own tests.
set -eu
cd "$(dirname "$0")"
PREFIX=${PREFIX:-/usr/local}
LIBDIR=${LIBDIR:-$PREFIX/lib}
CC=${CC:-cc}
VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' ../Cargo.toml | head -n 1)
SONAME=libspillring.so.0
MAP=$PWD/spillring.map

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# By the loader that a program gets: musl-gcc calls its machine that of the gcc behind it.
echo 'int main(void) { return 0; }' >"$work/main.c"
$CC -o "$work/main" "$work/main.c"
if readelf -lW "$work/main" | grep -q ld-musl; then
    echo "install.sh: musl's dlopen cannot load an object with static thread-local storage, so no shared" >&2
    echo "libspillring is made for it: build with cargo and link libspillring_ffi.a." >&2
    exit 1
fi
case $PREFIX$LIBDIR in
*[!A-Za-z0-9/._+~-]*)
    echo "install.sh: PREFIX and LIBDIR may hold letters, digits and / . _ + ~ - only" >&2
    exit 1
    ;;
esac

cargo build --profile abi --locked -q -p spillring-ffi ${FEATURES:+--features "$FEATURES"}
target=$(cargo metadata --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
rust=$target/abi/libspillring_ffi.a

# One object of what Rust has made, in which nothing but spr_ is to be seen, so that it goes together with other Rust.
# Two things go on the way: the bitcode that Rust's own objects carry beside their code (it makes the linker plugins of
# other LLVMs fail), and the code that finds names for addresses in a panic's backtrace (200 KB; there are no names in a
# stripped library).
without_names() {
    at=$(readelf -SW "$1" | sed -n 's/.* \(\.text\._R[^ ]*5gimli[^ ]*5Cache11with_global[^ ]*\) *PROGBITS *[^ ]* [^ ]* \([^ ]*\) .*/\1 \2/p')
    case $($CC -dumpmachine) in
    x86_64*) return_now='\303' ;;
    aarch64*) return_now='\300\003\137\326' ;;
    *) return 0 ;;
    esac
    # Without this function the library is only larger.
    [ -n "$at" ] || return 0
    # Its size stays, so that the unwinder's tables stay true.
    head -c "$((0x${at#* }))" /dev/zero >"$work/code"
    printf "$return_now" | dd of="$work/code" conv=notrunc status=none
    objcopy --remove-relocations="${at% *}" --update-section "${at% *}=$work/code" "$1"
}

sed -n 's/^ *\(spr_[a-z_]*\);/\1/p' "$MAP" >"$work/names"
mkdir "$work/objects"
(cd "$work/objects" && ar x "$rust")
for object in "$work"/objects/*.o; do
    objcopy -R .llvmbc -R .llvmcmd "$object"
    case $object in
    */std-*) without_names "$object" ;;
    esac
done
ld -r -o "$work/spillring.o" --gc-sections $(sed 's/^/-u /' "$work/names") "$work"/objects/*.o
objcopy --keep-global-symbols="$work/names" --strip-debug "$work/spillring.o"
ar rcs "$work/libspillring.a" "$work/spillring.o"

# The shared object. Symbol versions and visibility come from the map; -z nodelete, because a fork hook of the library
# must not outlive it.
$CC -shared -o "$work/$SONAME" -Wl,-soname,$SONAME -Wl,--version-script="$MAP" -Wl,-z,nodelete -Wl,-z,defs \
    -Wl,-z,relro -Wl,-z,now -Wl,-z,noseparate-code -Wl,--gc-sections -Wl,-O1 -Wl,--build-id \
    "$work/spillring.o" -Wl,--as-needed -lgcc_s -lc
strip --strip-unneeded "$work/$SONAME"

to=${DESTDIR:-}
mkdir -p "$to$PREFIX/include" "$to$LIBDIR/pkgconfig" "$to$LIBDIR/cmake/spillring" "$to$PREFIX/share/man/man3"
install -m 644 ../include/spillring.h ../include/spillring.hpp "$to$PREFIX/include/"
install -m 755 "$work/$SONAME" "$to$LIBDIR/libspillring.so.$VERSION"
ln -sf "libspillring.so.$VERSION" "$to$LIBDIR/$SONAME"
ln -sf $SONAME "$to$LIBDIR/libspillring.so"
install -m 644 "$work/libspillring.a" "$to$LIBDIR/"
for template in spillring.pc spillringConfig.cmake spillringConfigVersion.cmake; do
    sed -e "s|@PREFIX@|$PREFIX|g" -e "s|@LIBDIR@|$LIBDIR|g" -e "s|@VERSION@|$VERSION|g" $template.in >"$work/$template"
done
install -m 644 "$work/spillring.pc" "$to$LIBDIR/pkgconfig/"
install -m 644 "$work/spillringConfig.cmake" "$work/spillringConfigVersion.cmake" "$to$LIBDIR/cmake/spillring/"
awk -v out="$to$PREFIX/share/man/man3" -v version="$VERSION" -f man.awk ../include/spillring.h
echo "installed libspillring $VERSION in $to$PREFIX"

#!/bin/sh
# Installs Krita, a screen that nobody sees, and what Krita's plug-ins need, for the tests of the plug-in
# (pytest -m editor tests/editors). Debian and Ubuntu. What is there already stays as it is.
set -eu

packages="krita xvfb python3-pyqt5 python3-pyqt5.sip"

if ! command -v apt-get >/dev/null; then
    echo "install_krita.sh: there is no apt-get; install Krita 5.1 or later, Xvfb and PyQt5 by other means" >&2
    exit 1
fi

missing=""
for package in $packages; do
    if ! dpkg-query --show --showformat='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed; then
        missing="$missing $package"
    fi
done

if [ -n "$missing" ]; then
    echo "Installing:$missing"
    as_root=""
    [ "$(id -u)" -eq 0 ] || as_root=sudo
    $as_root apt-get update -qq
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
fi

echo "Installed: Krita $(dpkg-query --show --showformat='${Version}' krita)"

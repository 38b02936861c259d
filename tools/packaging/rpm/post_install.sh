# Makes the system user and its directory; an upgrade leaves what is there, and restarts a member that runs.
if ! getent passwd ringd >/dev/null; then
    systemd-sysusers ringd.conf 2>/dev/null ||
        useradd --system --user-group --no-create-home --home-dir /var/lib/ringd --shell /sbin/nologin ringd
fi
if [ ! -d /var/lib/ringd ]; then install -d -m 0700 -o ringd -g ringd /var/lib/ringd; fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    if [ "$1" -ge 2 ]; then systemctl try-restart ringd.service || :; fi
fi

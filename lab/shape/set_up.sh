#!/bin/sh
# Sets a machine up as people did it: a manual clone, an environment by pip, everything owned by the service user.
#
#   set_up.sh REPOSITORY INDEX

set -eu

mkdir -p /opt/ladylinux/models /opt/ladylinux/containers /etc/ladylinux
mkdir -p /var/lib/ladylinux/data /var/lib/ladylinux/cache /var/lib/ladylinux/logs
git clone --quiet "$1" /opt/ladylinux/app
python3 -m venv /opt/ladylinux/venv
/opt/ladylinux/venv/bin/pip install --quiet --disable-pip-version-check --no-cache-dir --index-url "$2" \
    --requirement /opt/ladylinux/app/requirements.txt
head -c 300000 /dev/urandom >/opt/ladylinux/models/lady.gguf
echo note >/var/lib/ladylinux/data/note
printf 'LADYLINUX_PORT=8000\nOAUTH_TOKEN=first\n' >/etc/ladylinux/ladylinux.env
chmod 640 /etc/ladylinux/ladylinux.env
chmod 750 /var/lib/ladylinux /var/lib/ladylinux/data
chown -R ladylinux:ladylinux /opt/ladylinux /var/lib/ladylinux /etc/ladylinux
systemctl daemon-reload
systemctl enable --quiet --now ladylinux-api ladylinux-worker ladylinux-indexer

#!/bin/sh
# Creates a certificate authority (CA) and the broker's certificate. Copy ca.crt to every client; keep ca.key offline.
# Run again with the same folder to renew the broker's certificate, optionally for another name; the CA is kept.
set -eu
umask 077

[ $# -eq 2 ] || {
    echo "Usage: $0 HOST FOLDER" >&2
    echo "  HOST is the name or the IP address by which clients reach the broker." >&2
    exit 2
}
host=$1
folder=$2
ca_days=3650
server_days=825 # maximum that all TLS libraries accept

case "$host" in
    *:*) san="IP:$host" ;;
    *[!0-9.]*) san="DNS:$host" ;;
    *) san="IP:$host" ;;
esac

mkdir -p "$folder"
cd "$folder"
new_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"; }

if ! [ -s ca.crt ]; then # new, or incomplete
    [ -s ca.key ] || new_key ca.key
    openssl req -x509 -new -key ca.key -days $ca_days -subj "/CN=emotion-edge authority" -out ca.crt \
        -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign"
fi
[ -s ca.key ] || {
    echo "$folder: ca.key is missing. Copy it there for this run, or remove ca.crt to create a new authority." >&2
    exit 1
}
new_key server.key
openssl req -new -key server.key -subj "/CN=$host" -out server.csr
cat >server.ext <<END
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth
subjectAltName=$san
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
END
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days $server_days -extfile server.ext \
    -out server.crt
rm server.csr server.ext

chmod 644 ca.crt server.crt
chmod 755 .
# The broker reads its key as user mosquitto.
if [ "$(id -u)" -eq 0 ] && getent group mosquitto >/dev/null; then
    chgrp mosquitto server.key
    chmod 640 server.key
fi
echo "$folder: ca.crt for the clients, server.crt and server.key for the broker at $host"

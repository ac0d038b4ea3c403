#!/bin/bash
# Makes, with OpenSSL alone, in the current directory: root, issuing CA (int), leaf and OCSP responder certificates
# with keys; root.crl and int.crl; revoked.crl, where int has revoked the leaf; bad.crl, which has no number.
set -eu

request() { # NAME SUBJECT
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1.key" -out "$1.csr" -subj "$2"
}
ca() { # ISSUER ARGUMENT...
    local issuer=$1
    shift
    openssl ca -batch -notext -config ca.cnf -name "$issuer" "$@"
}

section() { # ISSUER
    mkdir "$1"
    touch "$1/index.txt"
    openssl rand -hex 16 >"$1/serial"
    echo 01 >"$1/crlnumber"
    cat <<END
[$1]
database=$1/index.txt
new_certs_dir=$1
serial=$1/serial
crlnumber=$1/crlnumber
default_md=sha256
default_days=20
default_crl_days=7
policy=any
certificate=$1.pem
private_key=$1.key
END
}

{
    section root
    section int
    # The same CA without CRL numbers.
    echo '[unnumbered]'
    printf '%s=%s\n' database int/index.txt default_md sha256 default_crl_days 7 certificate int.pem private_key int.key
    cat <<END
[any]
commonName=optional
organizationName=optional
[req]
distinguished_name=any
[issuing]
basicConstraints=critical,CA:TRUE,pathlen:0
keyUsage=critical,keyCertSign,cRLSign
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
[leaf]
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
subjectAltName=critical,DNS:leaf.test
[responder]
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=OCSPSigning
noCheck=ignored
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
[crl]
authorityKeyIdentifier=keyid
END
} >ca.cnf

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout root.key -out root.pem -days 30 \
    -subj "/O=Test/CN=Root" -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
request int "/O=Test/CN=Issuing"
ca root -extensions issuing -in int.csr -out int.pem
request leaf "/"
ca int -extensions leaf -in leaf.csr -out leaf.pem
request responder "/CN=responder"
ca int -extensions responder -in responder.csr -out responder.pem
ca root -gencrl -crlexts crl -out root.crl
ca int -gencrl -crlexts crl -out int.crl
cp int/index.txt good.txt
ca unnumbered -gencrl -out bad.crl
ca int -revoke leaf.pem -crl_reason superseded
ca int -gencrl -crlexts crl -out revoked.crl

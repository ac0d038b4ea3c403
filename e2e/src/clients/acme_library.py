"""What a program of one's own would do with the PyPI library `acme`: one action, described by the JSON in the only
argument. What it found goes to standard output, as JSON."""

import datetime
import ipaddress
import json
import pathlib
import sys

import josepy
from acme import challenges, client, errors, messages
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

WITHIN = datetime.timedelta(seconds=60)


def new_key(kind):
    if kind == "rsa2048":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP384R1() if kind == "ec384" else ec.SECP256R1())


def pem_of(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def connect(request):
    """A client with the account whose key is in the file, which is made the first time."""
    file = pathlib.Path(request["account"])
    if file.exists():
        key = serialization.load_pem_private_key(file.read_bytes(), None)
    else:
        key = new_key(request["account_key"])
        file.write_bytes(pem_of(key))
    if isinstance(key, rsa.RSAPrivateKey):
        jwk, algorithm = josepy.JWKRSA(key=key), josepy.RS256
    else:
        jwk, algorithm = josepy.JWKEC(key=key), josepy.ES256
    network = client.ClientNetwork(jwk, alg=algorithm, user_agent="chancery-e2e")
    directory = client.ClientV2.get_directory(request["directory"], network)
    acme = client.ClientV2(directory, network)
    binding = None
    if request["eab"]:
        binding = messages.ExternalAccountBinding.from_data(
            jwk.public_key(), request["eab"]["kid"], request["eab"]["hmac_key"], directory
        )
    registration = messages.NewRegistration.from_data(
        email="operator@example.com", terms_of_service_agreed=True, external_account_binding=binding
    )
    try:
        acme.new_account(registration)
    except errors.ConflictError as known:
        resource = messages.RegistrationResource(uri=known.location, body=messages.Registration())
        acme.query_registration(resource)
    return acme, jwk


def csr_for(names, key):
    def general(name):
        try:
            return x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            return x509.DNSName(name)

    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(x509.SubjectAlternativeName([general(name) for name in names]), False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def obtain(request):
    acme, jwk = connect(request)
    key = new_key(request["key"])
    order = acme.new_order(csr_for(request["names"], key), profile=request["profile"])
    for authorization in order.authorizations:
        # One that is valid already asks for nothing.
        if authorization.body.status == messages.STATUS_VALID:
            continue
        challenge = next(
            body for body in authorization.body.challenges if isinstance(body.chall, challenges.HTTP01)
        )
        response, validation = challenge.response_and_validation(jwk)
        pathlib.Path(request["webroot"], challenge.chall.encode("token")).write_text(validation)
        acme.answer_challenge(challenge, response)
    order = acme.poll_and_finalize(order, datetime.datetime.now() + WITHIN)
    out = pathlib.Path(request["out"])
    (out / "bundle.pem").write_text(order.fullchain_pem)
    (out / "key.pem").write_bytes(pem_of(key))
    return {}


def revoke(request):
    acme, _ = connect(request)
    certificate = x509.load_pem_x509_certificate(pathlib.Path(request["certificate"]).read_bytes())
    acme.revoke(certificate, request["reason"])
    return {}


def renewal_info(request):
    acme, _ = connect(request)
    when, again = acme.renewal_time(pathlib.Path(request["certificate"]).read_bytes())
    return {"when": when and when.timestamp(), "again": again.timestamp()}


def deactivate(request):
    acme, _ = connect(request)
    account = acme.net.account
    return {"status": acme.deactivate_registration(account).body.status}


request = json.loads(sys.argv[1])
actions = {"obtain": obtain, "revoke": revoke, "renewal_info": renewal_info, "deactivate": deactivate}
print(json.dumps(actions[request["action"]](request)))

"""Certificate: what an administrator does about one that is not accepted."""


def advice(said: str) -> str:
    """By what OpenSSL says of it."""
    if "expired" in said:
        return "renew the certificate"
    if "IP address mismatch" in said or "Hostname mismatch" in said:
        return "use the name that is in the certificate, or have one made with this name"
    return "name the certificate's authority as `ca`, or have one made by an authority that this machine trusts"

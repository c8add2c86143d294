"""The errors of object storage in our words. obstore tells them apart by class, and the rest by text."""

from __future__ import annotations

import errno
import re

from ..errors import AccessDenied, InvalidArgument, PagescanError, StoreUnavailable

#: What S3, Azure and Google say of a bucket that is not there.
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "specified bucket does not exist")
#: What to set in the environment, and an option that does the same.
_CREDENTIALS = {
    "s3": ("AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION", "access_key_id"),
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS", "service_account"),
    "az": ("AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY", "account_name"),
}


def words(error: BaseException) -> str:
    """The message without what is for obstore's own developers, in one line."""
    return " ".join(str(error).partition("Debug source")[0].split())


def no_bucket(text: str) -> bool:
    """Whether a message says that there is no such bucket."""
    return any(sign in text for sign in _NO_BUCKET)


def explain(url: str, error: BaseException) -> PagescanError:
    """An error of obstore's, or of the system, as ours."""
    text = words(error)
    found = re.search(r"\(os error (\d+)\)", text)
    number = getattr(error, "errno", None) or (int(found[1]) if found else None)
    name = type(error).__name__
    if number == errno.ENOSPC:
        return PagescanError(f"cannot write {url}: no space is left there", errno=number)
    if name in ("PermissionDeniedError", "UnauthenticatedError") or number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return AccessDenied(f"{url}: access was refused: {text}", hint=_credentials(url), errno=number)
    if isinstance(error, FileNotFoundError) or no_bucket(text):
        return InvalidArgument(
            f"{url}: there is no such bucket, container or folder: {text}", hint="make it, or mend the URL"
        )
    if "169.254.169.254" in text or "must be specified" in text:
        return AccessDenied(f"{url}: no credentials were found: {text}", hint=_credentials(url))
    return StoreUnavailable(
        f"{url} cannot be reached, or does not answer as it should: {text}",
        hint="nothing is lost: mend the connection (endpoint=, region=, network) and do it again",
        errno=number,
    )


def _credentials(url: str) -> str:
    if url.startswith("file:"):
        return "give a folder of your own"
    variables, option = _CREDENTIALS[url.partition("://")[0]]
    return f"set {variables}, or pass them to open_store(): {option}=, ..."

"""The script of the page: Vega, Vega-Lite and Vega-Embed in one, made once a machine."""

from __future__ import annotations

import contextlib
import functools
from importlib import metadata

from transfuse.data.cache import cache_folder
from transfuse.errors import StoreError
from transfuse.results.store import replacing

VEGA_LITE = "6.4"  # the version inside vl-convert that draws and that is put into the page


@functools.cache
def vega_bundle() -> str:
    """The script, without any further load; from the cache, where it is there, for making it takes seconds."""
    try:
        path = cache_folder(None) / f"vega-{VEGA_LITE}-{metadata.version('vl-convert-python')}.js"
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        bundle = _made()
        with contextlib.suppress(StoreError), replacing(path) as part:
            part.write_text(bundle, encoding="utf-8")
        return bundle
    except (StoreError, OSError):  # a cache is a convenience
        return _made()


def _made() -> str:
    import vl_convert

    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")

"""Static files: compressed, and named by their content, so that browsers may keep them for ever."""

from whitenoise.storage import CompressedManifestStaticFilesStorage


class StaticFilesStorage(CompressedManifestStaticFilesStorage):
    """Also rewrites the imports of ES modules: by their plain names a new page would get old modules."""

    support_js_module_import_aggregation = True

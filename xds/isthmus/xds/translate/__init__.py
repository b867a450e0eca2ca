"""From the catalog of a mesh to Envoy's resources: a pure function."""

from isthmus.xds.translate.mesh import Mesh, MeshSettings
from isthmus.xds.translate.translation import Translation, translate

__all__ = ["Mesh", "MeshSettings", "Translation", "translate"]

"""What the data page and a run's report draw with: one kit, so that both show the same thing alike.

==================  ============================================================================
module              purpose
==================  ============================================================================
``band_choice``     which bands of a modality make a red-green-blue picture
``map_colors``      colors of classes, sites and splits
``color_vision``    how far apart colors look, also to color-blind readers
``scene_grid``      where the samples of a scene lie: maps of cells, outlines as SVG paths
``mosaic``          pixels of a store: a scene put together from its chips, and single chips
``images``          arrays to bytes: contrast stretch, data URIs
``page_style``      the pages' style sheet, light and dark
``html_page``       a template and its context to one HTML file that fetches nothing
==================  ============================================================================

Pixels go from ``mosaic`` through ``images.stretch`` into a data URI, labels and their colors from
``map_colors`` through ``SceneGrid.paint``; ``html_page`` puts both into the page.
"""

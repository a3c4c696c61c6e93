"""What runs at a site: its data on the device, local training, its durable state, the upload.

==============  ====================================================================
module          gives
==============  ====================================================================
``device``      the device that a setting names
``weights``     a model as one flat float32 vector, and back
``pixels``      native pixels, as stored, to normalised float32 on the device
``partition``   a split of a site's chips, held on the device or streamed to it
``augment``     flips and quarter turns
``training``    one round of local training
``scoring``     the confusion matrix and loss of a model on a split
``vectors``     vectors that live in mapped files
``history``     what a site remembers of a run, and may have to go back to
``state``       the files of that memory, replaced at once
``replica``     the site's copy of the published model, brought up to date by patches
``upload``      change plus residual, compressed, the rest kept
``turn``        one locked look at the state, and at most one change of it
``cleaning``    states of old runs, listed and deleted
``task``        what the server asks of a site in one round, and the reply
``site``        a round's work from all of these
==============  ====================================================================

Nothing here knows Flower, the server, or how imagery is stored.
"""

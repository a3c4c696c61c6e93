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
``state``       what must survive a restart, in one file replaced at once
``task``        what the server asks of a site in one round, and the reply
``site``        a round's work from all of these
==============  ====================================================================

Nothing here knows Flower, the server, or how imagery is stored.
"""

/* Stands in for libnvinfer, libnvinfer_plugin and libnvonnxparser, so that the real Python bindings of a TensorRT
 * version import on a machine without its libraries and can be asked what classes and members they have.
 * Every factory answers null, which is also what a machine without a GPU gets from the real ones. */
#define FACTORY(name) \
    void *name(void) { return 0; }

FACTORY(createInferBuilder_INTERNAL)
FACTORY(createInferRefitter_INTERNAL)
FACTORY(createInferRuntime_INTERNAL)
FACTORY(createNvOnnxParserRefitter_INTERNAL)
FACTORY(createNvOnnxParser_INTERNAL)
FACTORY(getBuilderPluginRegistry)
FACTORY(getNvOnnxParserVersion)
FACTORY(getPluginRegistry)
FACTORY(initLibNvInferPlugins)
